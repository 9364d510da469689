"""Scalar normalisation of what a coder reads and writes, slice by slice.

Training sees (x - mean) · scale with scale = sqrt(d / E‖x - mean‖²), so that every slice has unit mean square per dimension
and learning rates carry over between layers and models. `folding` removes it from the saved weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders.metadata import Slice
from saescope.errors import TrainingError


@dataclass(frozen=True)
class Normalization:
    """mean [d] and scale [d] (constant within a slice) of a concatenated vector."""

    mean: Float[Tensor, "d"]
    scale: Float[Tensor, "d"]

    def apply(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        return (x - self.mean) * self.scale

    def apply_(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        """`apply` in place."""
        return x.sub_(self.mean).mul_(self.scale)

    def undo(self, x: Float[Tensor, "tokens d"]) -> Float[Tensor, "tokens d"]:
        return x / self.scale + self.mean

    @staticmethod
    def identity(width: int) -> Normalization:
        return Normalization(torch.zeros(width), torch.ones(width))

    @staticmethod
    def of(slices: tuple[Slice, ...], moments: dict[str, tuple[Float[Tensor, "d"], float]]) -> Normalization:
        """From each point's mean [d] and mean squared distance from it, E‖x - mean‖²."""
        means, scales = [], []
        for part in slices:
            mean, spread = moments[part.point]
            if not 0 < spread < float("inf"):
                raise TrainingError(
                    f"activations at {part.point} do not vary or are not finite (E‖x - mean‖² = {spread:g}): there is "
                    "nothing to learn; check the model, the point and the text"
                )
            means.append(mean.double())
            scales.append(torch.full((part.width,), (part.width / spread) ** 0.5, dtype=torch.float64))
        return Normalization(torch.cat(means).float(), torch.cat(scales).float())
