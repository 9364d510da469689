"""95 % intervals by resampling examples within their classes, so that no resample lacks a class."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.evaluation.bootstrap import Interval


def class_resamples(group: Int[Tensor, "n"], resamples: int, seed: int) -> Float[Tensor, "resamples n"]:
    """How often each resample draws each example; every class keeps its number of examples."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.zeros(resamples, group.numel())
    for label in group.unique():
        members = (group == label).nonzero()[:, 0]
        drawn = members[torch.randint(members.numel(), (resamples, members.numel()), generator=generator)]
        times.scatter_add_(1, drawn, torch.ones(drawn.shape))
    return times


def percentiles(values: Float[Tensor, "resamples"]) -> Interval | None:
    """The middle 95 % of what the resamples gave; None where fewer than two gave anything."""
    finite = values[values.isfinite()].double()
    if finite.numel() < 2:
        return None
    low, high = finite.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
