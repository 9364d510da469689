"""Fixed-bin histograms, so that those of two evaluations can be laid over one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie in [edges[i], edges[i + 1]); values beyond the ends count in the outermost bins.

    `absent` counts those with no place on the axis, such as the density 0 on a logarithmic one.
    """

    edges: list[float]
    counts: list[int]
    absent: int = 0

    @staticmethod
    def of(values: Float[Tensor, "n"], low: float, high: float, bins: int, absent: int = 0) -> Histogram:
        edges = [low + (high - low) * i / bins for i in range(bins + 1)]
        inner = torch.tensor(edges[1:-1], dtype=torch.float64)
        # Values such as log10(0.01) must fall on the same side of an edge on every machine.
        placed = torch.bucketize(values.cpu().double() + 1e-9, inner, right=True)
        return Histogram(edges, torch.bincount(placed, minlength=bins).tolist(), absent)

    def to_dict(self) -> dict[str, object]:
        return {"edges": [round(edge, 10) for edge in self.edges], "counts": self.counts, "absent": self.absent}


def log10_density_histogram(density: Float[Tensor, "d_sae"]) -> Histogram:
    """log10 of the density of every latent that fires, in bins of 0.25 from -6 to 0; silent ones are `absent`."""
    alive = density[density > 0]
    return Histogram.of(alive.double().log10(), -6.0, 0.0, 24, absent=density.numel() - alive.numel())


def cosine_histogram(cosines: Float[Tensor, "n"]) -> Histogram:
    """Cosines in bins of 0.02 from -1 to 1."""
    return Histogram.of(cosines, -1.0, 1.0, 100)
