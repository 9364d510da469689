"""A few features that stand for all: spread over how often they fire."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def spread_over_densities(density: Float[Tensor, "d_sae"], n: int) -> list[int]:
    """At most `n` latents that fire, evenly spaced by rank of density, commonest first. The same for the same densities."""
    order = torch.argsort(density, descending=True, stable=True)
    alive = order[density[order] > 0]
    n = min(n, alive.numel())
    # The middle of each of n equal shares, so that no end is favoured.
    return [int(alive[int((i + 0.5) * alive.numel() / n)]) for i in range(n)]
