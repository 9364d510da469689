"""The tensors of one file, taken by name; each is checked against what is known of its dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from saescope.errors import CoderError

_LONGEST_LIST = 4096


class Weights:
    """What a file holds. A dimension (`d_in`, `d_sae`, `d_out` …) is known from the configuration or from the first tensor
    that has it; every further tensor must agree."""

    def __init__(self, label: str, content: Mapping[str, Any], config: str = "its configuration") -> None:
        self.label, self._content, self._config = label, dict(content), config
        self._taken: set[str] = set()
        self.sizes: dict[str, int] = {}
        self._said_by: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._content

    def expect(self, **sizes: object) -> None:
        """Dimensions that the configuration states; None for what it leaves unsaid."""
        for name, size in sizes.items():
            if size is None:
                continue
            if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
                raise CoderError(f"{self._config} has {name} = {size!r}, which is not a number of dimensions")
            self.sizes[name], self._said_by[name] = size, self._config

    def take(self, name: str, *dims: str) -> Tensor:
        """A tensor in float32 whose dimensions are `dims`. CoderError where it is missing, no tensor of real numbers, of
        another shape, or not finite."""
        if name not in self._content:
            raise CoderError(f"{self.label} has no tensor {name!r}; it is incomplete or of another architecture")
        given = self._content[name]
        self._taken.add(name)
        if not isinstance(given, Tensor) or given.layout != torch.strided or given.device.type != "cpu":
            raise CoderError(f"{self.label}: {name} is no plain tensor; the file is damaged or of another format")
        if not given.dtype.is_floating_point:
            raise CoderError(
                f"{self.label}: {name} is {str(given.dtype).removeprefix('torch.')}, not floating point; "
                "the file is damaged or of another format"
            )
        if given.numel() * given.element_size() > given.untyped_storage().nbytes():
            raise CoderError(
                f"{self.label}: {name} is {list(given.shape)} but holds fewer numbers; the file is damaged"
            )
        self._check_shape(name, given, dims)
        value = given.detach().to(torch.float32)
        if not torch.isfinite(value).all():
            raise CoderError(f"{self.label}: {name} contains NaN or infinity; the file is damaged or training diverged")
        return value

    def number(self, name: str) -> float:
        """A tensor of one number, of any type, or a plain number."""
        if name not in self._content:
            raise CoderError(f"{self.label} has no number {name!r}; it is incomplete or of another architecture")
        given = self._content[name]
        self._taken.add(name)
        plain = (
            isinstance(given, Tensor) and given.numel() == 1 and given.device.type == "cpu" and not given.is_complex()
        )
        value = given.item() if plain else given
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value != value
            or abs(value) == float("inf")
        ):
            raise CoderError(f"{self.label}: {name} is no number; the file is damaged or of another format")
        return float(value)

    def integers(self, name: str) -> list[int]:
        """A short list of whole numbers."""
        given = self._content.get(name)
        self._taken.add(name)
        if not isinstance(given, Tensor) or given.dtype not in (torch.int32, torch.int64) or given.device.type != "cpu":
            raise CoderError(
                f"{self.label}: {name} is no list of whole numbers; the file is damaged or of another format"
            )
        if given.ndim != 1 or not 0 < given.numel() <= _LONGEST_LIST:
            raise CoderError(
                f"{self.label}: {name} is {list(given.shape)}, which is no short list; the file is damaged"
            )
        return [int(value) for value in given.tolist()]

    @property
    def names(self) -> list[str]:
        """All that the file holds."""
        return list(self._content)

    def ignore(self, names: Iterable[str]) -> None:
        """Names that are known and not needed."""
        self._taken.update(names)

    def finish(self) -> None:
        """Refuse what nobody took: it would change what the coder computes."""
        unknown = sorted(set(self._content) - self._taken)
        if unknown:
            raise CoderError(
                f"{self.label} has unknown tensors {', '.join(unknown[:8])}; {self._config} does not match it"
            )

    def _check_shape(self, name: str, given: Tensor, dims: tuple[str, ...]) -> None:
        shape = list(given.shape)
        expected = [self.sizes.get(dim) for dim in dims]
        fits = len(shape) == len(dims) and all(
            size == wanted if wanted else size > 0 for size, wanted in zip(shape, expected, strict=True)
        )
        if not fits:
            saying = dict.fromkeys(self._said_by[dim] for dim in dims if dim in self._said_by)
            known = ", ".join(dim if size is None else str(size) for dim, size in zip(dims, expected, strict=True))
            reason = (
                f"{' and '.join(saying)} make{'s' if len(saying) == 1 else ''} it [{known}]"
                if saying
                else (f"it should be [{', '.join(dims)}]")
            )
            raise CoderError(f"{self.label}: {name} is {shape}, {reason}")
        for dim, size in zip(dims, shape, strict=True):
            if dim not in self.sizes:
                self.sizes[dim], self._said_by[dim] = size, name
