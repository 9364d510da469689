"""How well a probe tells two labels apart on its test examples, with intervals over their groups.

With TPR and FPR at a log odds of zero, labels weighing the same however often they come:

    accuracy = (TPR + 1 - FPR) / 2        f1 = 2 TPR / (TPR + FPR + 1)        auc = P(score₊ > score₋) + P(equal) / 2

A constant probe has accuracy and AUC .5. On as many examples of either label these are the usual accuracy and F1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saescope.evaluation.bootstrap import Interval
from saescope.evaluation.part import Estimate

QUALITIES = ("accuracy", "f1", "auc")


@dataclass(frozen=True)
class Resamples:
    """Groups drawn with replacement. group [n]: of each example, numbered from 0. counts [resamples, groups]: how often."""

    group: Int[np.ndarray, "n"]
    counts: Float[np.ndarray, "resamples groups"]


def resampled_groups(group: Int[np.ndarray, "n"], resamples: int, rng: np.random.Generator) -> Resamples | None:
    """None for fewer than two groups: one says nothing of how others would differ."""
    number = np.unique(group, return_inverse=True)[1]
    n_groups = int(number.max()) + 1
    if n_groups < 2:
        return None
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples)
    return Resamples(number, counts.astype(np.float64))


def qualities(
    score: Float[np.ndarray, "n"], label: Bool[np.ndarray, "n"], drawn: Resamples | None
) -> dict[str, Estimate]:
    """`accuracy`, `f1` and `auc`; intervals are 95 % percentiles over the resamples, those without a label left out."""
    found = _measured(score, label, Resamples(np.zeros(len(label), dtype=int), np.ones((1, 1))))
    over = None if drawn is None else _measured(score, label, drawn)
    return {
        name: Estimate(float(found[name][0]), None if over is None else percentiles(over[name])) for name in QUALITIES
    }


def mean_over(values: list[float], resamples: int, seed: int) -> Estimate:
    """The mean, with its interval over resamples of the values; None of none, no interval of one."""
    if not values:
        return Estimate(None)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(resamples, len(values)))
    interval = percentiles(np.array(values)[drawn].mean(1)) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), interval)


def percentiles(values: Float[np.ndarray, "resamples"]) -> Interval | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _measured(
    score: Float[np.ndarray, "n"], label: Bool[np.ndarray, "n"], drawn: Resamples
) -> dict[str, Float[np.ndarray, "resamples"]]:
    """AUC needs every pair of examples once: summed over pairs of groups, a resample is a quadratic form in its counts."""
    n_groups = drawn.counts.shape[1]
    positive, negative = drawn.group[label], drawn.group[~label]

    def times(groups: Int[np.ndarray, "some"]) -> Float[np.ndarray, "resamples"]:
        found: np.ndarray = drawn.counts @ np.bincount(groups, minlength=n_groups)
        return found

    difference = score[label][:, None] - score[~label]
    won = np.zeros((n_groups, len(negative)))
    np.add.at(won, positive, (difference > 0) + 0.5 * (difference == 0))
    pairs = np.zeros((n_groups, n_groups))
    np.add.at(pairs.T, negative, won.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = times(positive[score[label] > 0]) / times(positive)
        fpr = times(negative[score[~label] > 0]) / times(negative)
        auc = ((drawn.counts @ pairs) * drawn.counts).sum(1) / (times(positive) * times(negative))
        return {"accuracy": (tpr + 1 - fpr) / 2, "f1": 2 * tpr / (tpr + fpr + 1), "auc": auc}
