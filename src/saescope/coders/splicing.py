"""A coder as an edit of a model run: its output replaces the activation at kept positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.errors import CoderError
from saescope.lm import Change, Edit, Positions

Reconstruction = Callable[[Float[Tensor, "tokens d_in"]], Float[Tensor, "tokens d_out"]]


def splice(
    coder: SparseCoder,
    kept: Bool[Tensor, "batch seq"] | None = None,
    *,
    reconstruct: Reconstruction | None = None,
) -> list[Edit]:
    """Edits that put the coder into a run: x̂ at positions where `kept` is true, everything else untouched.

    kept: [batch, seq], as `KeptRule.kept` gives it; None keeps every position that is not padding. reconstruct: used in
    place of the coder's own forward (its points are still the coder's): how controls and steered codes are spliced.
    """
    run = _Splice(coder, kept, reconstruct or coder.forward)
    reading = [part.point for part in coder.reads]
    writing = [part.point for part in coder.writes]
    edits = [Edit(point, run.reader(point), name=f"read {point}", reads_only=True) for point in reading]
    return edits + [Edit(point, run.writer(point), name=f"splice {point}") for point in writing]


def put(coder: SparseCoder, kept: Bool[Tensor, "batch seq"], output: Float[Tensor, "n_kept d_out"]) -> list[Edit]:
    """Edits that put a known output in place of what the coder writes, at kept positions.

    Needs no run to read first: also for a coder that writes a point before the last one it reads (a crosscoder).
    """
    parts = output.split([part.width for part in coder.writes], dim=1)
    return [
        Edit(place.point, _writes(kept, part), name=f"put {place.point}")
        for place, part in zip(coder.writes, parts, strict=True)
    ]


def _writes(kept: Bool[Tensor, "batch seq"], part: Float[Tensor, "n_kept d"]) -> Change:
    return lambda values, positions: values.index_put((kept.to(values.device),), part.to(values))


class _Splice:
    """The state of one spliced run: what was read, and the output once all of it has been."""

    def __init__(self, coder: SparseCoder, kept: Tensor | None, reconstruct: Reconstruction) -> None:
        self.coder, self.kept, self.reconstruct = coder, kept, reconstruct
        self.read: dict[str, Tensor] = {}
        self.output: dict[str, Tensor] | None = None

    def mask(self, values: Tensor, positions: Positions) -> Tensor:
        kept = positions.real if self.kept is None else self.kept.to(values.device)
        if kept.shape != values.shape[:2]:
            raise CoderError(
                f"the kept mask is {list(kept.shape)} but the run is {list(values.shape[:2])} (batch, position); "
                "make the mask from the run's own tokens"
            )
        return kept

    def reader(self, point: str) -> Callable[[Tensor, Positions], Tensor]:
        def change(values: Tensor, positions: Positions) -> Tensor:
            if point in self.read:
                # A second run with the same edits starts over.
                self.read.clear()
                self.output = None
            self.read[point] = values[self.mask(values, positions)]
            return values

        return change

    def writer(self, point: str) -> Callable[[Tensor, Positions], Tensor]:
        def change(values: Tensor, positions: Positions) -> Tensor:
            mask = self.mask(values, positions)
            if self.output is None:
                self.output = self.compute()
            return values.index_put((mask,), self.output[point].to(values))

        return change

    def compute(self) -> dict[str, Tensor]:
        missing = [part.point for part in self.coder.reads if part.point not in self.read]
        if missing:
            raise CoderError(
                f"the run reached {self.coder.writes[0].point} before {missing[0]}, which the coder reads; "
                "it cannot be spliced in this model"
            )
        x = torch.cat([self.read[part.point] for part in self.coder.reads], dim=1)
        x_hat = self.reconstruct(x.to(self.coder.dtype))
        widths = [part.width for part in self.coder.writes]
        return dict(zip((part.point for part in self.coder.writes), x_hat.split(widths, dim=1), strict=True))
