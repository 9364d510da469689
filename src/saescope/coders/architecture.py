"""What differs between sparse coders, and the register of those that exist.

An architecture says how latents are chosen (in training, and at inference) and what its training reconstructs or adds to
the loss. Weights, storage, training loop, kernels and metrics are the same for all. To add one: a file in
`architectures/` with a class that derives from `Architecture`, decorated with `@register`, and a row in the docs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from saescope.coders.codes import Codes
from saescope.errors import UsageError, nearest

if TYPE_CHECKING:
    from saescope.coders.coder import SparseCoder


class Options(BaseModel):
    """An architecture's own hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class TrainingPass:
    """One batch through a coder in training.

    codes: the chosen latents, their values carrying gradient.
    parts [tokens, levels, d_out], offset [d_out] or [tokens, d_out]: level l reconstructs as the sum of its first l parts
    plus the offset; the last level is the coder's output. The loss is the mean over levels. Most have one level.
    penalty: added to the loss as it is, or None.
    """

    codes: Codes
    parts: Float[Tensor, "tokens levels d_out"]
    offset: Float[Tensor, "*tokens d_out"]
    penalty: Float[Tensor, ""] | None = None


class Architecture(ABC):
    """How codes are chosen and what is added to the loss.

    name: as users type it and as `saescope.json` records it. inference: the name of the architecture that a trained
    coder is folded to for use (its own, or `jumprelu` where only a threshold remains). trainable: whether
    `training_pass` exists.
    """

    name: ClassVar[str]
    inference: ClassVar[str]
    trainable: ClassVar[bool] = True
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, d_sae: int) -> None:
        self.options = options
        self.d_sae = d_sae
        self.check()

    def check(self) -> None:  # noqa: B027 - most architectures have nothing to refuse
        """Refuse options that cannot work at this d_sae, with `UsageError`."""

    def extra_tensors(self) -> dict[str, Tensor]:
        """Tensors beyond the common weights, by name, at their initial values ([d_sae] or scalar)."""
        return {}

    @abstractmethod
    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        """Codes at inference, each token by itself. `x` is in the coder's dtype and width."""

    def training_pass(
        self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], selection: torch.dtype
    ) -> TrainingPass:
        """Codes and reconstructions of a training batch; `selection` is the precision in which latents may be chosen."""
        raise UsageError(f"architecture {self.name!r} is for inference; train one of {', '.join(trainable_names())}")

    def after_pass(self, coder: SparseCoder, done: TrainingPass, step: int) -> None:  # noqa: B027 - optional
        """Update running state (a threshold estimate) once per optimiser step, without gradient."""

    def calibrate(self, coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]]) -> None:  # noqa: B027
        """Settle inference-time state on training data when training ends."""

    def inference_options(self) -> dict[str, Any]:
        """Options of the inference architecture."""
        return {}

    def inference_tensors(self, coder: SparseCoder, norms: Float[Tensor, "d_sae"]) -> dict[str, Float[Tensor, "..."]]:
        """Extra tensors of the inference architecture; a latent's pre-activation has been multiplied by its `norms`."""
        return {}

    def levels(self) -> list[int]:
        """Cumulative latent counts of nested levels; one level for most."""
        return [self.d_sae]

    def describe(self) -> dict[str, Any]:
        return self.options.model_dump(mode="json")


_REGISTER: dict[str, type[Architecture]] = {}


def register(architecture: type[Architecture]) -> type[Architecture]:
    """Class decorator: make an architecture known by its name."""
    _REGISTER[architecture.name] = architecture
    return architecture


def architecture_names() -> list[str]:
    return sorted(_REGISTER)


def trainable_names() -> list[str]:
    return [name for name in architecture_names() if _REGISTER[name].trainable]


def architecture_type(name: str) -> type[Architecture]:
    """The class of an architecture, or a `UsageError` that names the nearest."""
    if name not in _REGISTER:
        raise UsageError(
            f"unknown architecture {name!r}; known: {', '.join(architecture_names())}{nearest(name, _REGISTER)}"
        )
    return _REGISTER[name]


def make_architecture(name: str, d_sae: int, options: dict[str, Any]) -> Architecture:
    """An architecture with checked options. Unknown or impossible options are a one-line `UsageError`."""
    kind = architecture_type(name)
    try:
        parsed = kind.options_type.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        given = f" (got {first['input']!r})" if "input" in first and first["type"] != "missing" else ""
        raise UsageError(f"architecture {name!r}, option {where}: {first['msg'].lower()}{given}") from None
    return kind(parsed, d_sae)
