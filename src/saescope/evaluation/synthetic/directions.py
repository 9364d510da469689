"""Unit directions for known features, random or as nearly orthogonal as they can be."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_SETTLED = 1e-6


def random_directions(n: int, d: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Uniform on the sphere; float64."""
    return _unit(torch.randn(n, d, generator=generator, dtype=torch.float64))


def spread_out(directions: Float[Tensor, "n d"], steps: int) -> Float[Tensor, "n d"]:
    """The nearest unit directions that overlap least on average: Σ_{i≠j} (d_i·d_j)² at its minimum, max(0, n²/d - n)
    (Welch, 1974), reached for n <= d by orthonormal rows and for n > d by a tight frame.

    Each step takes the closest matrix whose singular values are all equal (the polar factor), then unit rows again
    (Tropp et al., 2005). Costs a decomposition of [min(n, d)]² a step, whatever the larger of the two.
    """
    n, d = directions.shape
    found = directions
    for _ in range(steps):
        small = found.T @ found if n > d else found @ found.T
        values, vectors = torch.linalg.eigh(small)
        inverse_root = (vectors / values.clamp(min=1e-12).sqrt()) @ vectors.T
        moved = _unit(found @ inverse_root if n > d else inverse_root @ found)
        change = float((moved - found).norm() / n**0.5)
        found = moved
        if change < _SETTLED:
            break
    return found


def overlap(directions: Float[Tensor, "n d"]) -> float:
    """Σ_{i≠j} (d_i·d_j)², from the smaller Gram matrix."""
    n, d = directions.shape
    small = directions.T @ directions if n > d else directions @ directions.T
    return float(small.square().sum()) - n


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return unit
