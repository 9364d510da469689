"""95 % intervals: by resampling, of means over units and of anything over examples drawn within their classes; over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from saescope.evaluation.bootstrap import Interval

# Resampled values held at a time.
_ELEMENTS = 2**24


FEWEST_SEEDS = 3


def interval_over_seeds(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean by Student's t; None with fewer than three, where it would be as wide as to say nothing.

    Not by resampling: percentiles of three values' resampled means are their range, and cover three times in four.
    """
    if len(values) < FEWEST_SEEDS:
        return None
    # Student's quantile, from `special`: `scipy.stats` would make every measurement start half a second later.
    half = float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def mean_interval(values: Float[Tensor, "units"], *, resamples: int, seed: int) -> Interval | None:
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
    return percentiles(torch.cat(means))


def class_resamples(group: Int[Tensor, "n"], resamples: int, seed: int) -> Float[Tensor, "resamples n"]:
    """How often each resample draws each example; every class keeps its number of examples, so that no resample lacks one."""
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
