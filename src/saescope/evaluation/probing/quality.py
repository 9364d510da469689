"""How well a probe tells two labels apart on its test examples, with intervals over their groups.

With TPR and FPR at a log odds of zero, labels weighing the same however often they come:

    accuracy = (TPR + 1 - FPR) / 2        f1 = 2 TPR / (TPR + FPR + 1)        auc = P(score₊ > score₋) + P(equal) / 2

A constant probe has accuracy and AUC .5. On as many examples of either label these are the usual accuracy and F1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from saescope.evaluation.bootstrap import Interval
from saescope.evaluation.part import Estimate

QUALITIES = ("accuracy", "f1", "auc")


def resampled_groups(
    group: Int[np.ndarray, "n"], resamples: int, rng: np.random.Generator
) -> Float[np.ndarray, "resamples n"] | None:
    """How often each example comes when groups are drawn with replacement; None for fewer than two groups."""
    number = np.unique(group, return_inverse=True)[1]
    n_groups = int(number.max()) + 1
    if n_groups < 2:
        return None
    drawn = rng.integers(n_groups, size=(resamples, n_groups))
    counts = np.zeros((resamples, n_groups))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1.0)
    return counts[:, number]


def qualities(
    score: Float[np.ndarray, "n"], label: Bool[np.ndarray, "n"], weights: Float[np.ndarray, "resamples n"] | None
) -> dict[str, Estimate]:
    """`accuracy`, `f1` and `auc`; intervals are 95 % percentiles over `weights`, resamples without a label left out."""
    found = _measured(score, label, np.ones((1, len(score))))
    drawn = None if weights is None else _measured(score, label, weights)
    return {
        name: Estimate(float(found[name][0]), None if drawn is None else percentiles(drawn[name])) for name in QUALITIES
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
    score: Float[np.ndarray, "n"], label: Bool[np.ndarray, "n"], weights: Float[np.ndarray, "resamples n"]
) -> dict[str, Float[np.ndarray, "resamples"]]:
    positive, negative = weights * label, weights * ~label
    n_positive, n_negative = positive.sum(1), negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr = positive[:, score > 0].sum(1) / n_positive
        fpr = negative[:, score > 0].sum(1) / n_negative
        order = np.argsort(score, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(score[order]) > 0])
        above = np.add.reduceat(positive[:, order], starts, axis=1)
        below = np.add.reduceat(negative[:, order], starts, axis=1)
        auc = (above * (below.cumsum(1) - below / 2)).sum(1) / (n_positive * n_negative)
        return {"accuracy": (tpr + 1 - fpr) / 2, "f1": 2 * tpr / (tpr + fpr + 1), "auc": auc}
