"""95 % intervals of means, by resampling the units that were averaged."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Resampled values held at a time.
_ELEMENTS = 2**24


def mean_interval(values: Float[Tensor, "units"], *, resamples: int, seed: int) -> tuple[float, float] | None:
    """Percentile interval of the mean. None with fewer than two units: one says nothing of how others would differ."""
    values = values.detach().cpu().double()
    n = values.numel()
    if n < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    means, size = [], max(1, _ELEMENTS // n)
    for start in range(0, resamples, size):
        drawn = torch.randint(n, (min(size, resamples - start), n), generator=generator)
        means.append(values[drawn].mean(1))
    low, high = torch.cat(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
