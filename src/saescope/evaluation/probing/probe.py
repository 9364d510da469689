"""k-sparse probes: a few features chosen on the training examples, and a logistic regression on them.

    chosen     the k features of largest |μ₊ - μ₋|, means over the training examples of either label
    probe      logistic regression with an L2 penalty on features scaled to unit variance in training
    penalty    the one of least log loss over folds of training groups; in every fold the features are chosen anew

As in METRICS.md ("Probing"); Gurnee et al. 2023 (arXiv:2305.01610) for the k-sparse probe by mean difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from saescope.evaluation.probing.logistic import fit_logistic
from saescope.evaluation.probing.task import FOLDS, Task

Features = Any
"""[examples, features]: a dense array or a scipy CSR matrix."""
Selection = Literal["difference", "standardised"]
# Inverse penalties, strongest penalty first: of equals the first is taken.
C_GRID = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Probe:
    """A fitted probe on its test examples: `score` [n_test] > 0 says the label is true. features: those used, most
    telling first; empty for a probe on all of them."""

    features: list[int]
    C: float
    score: Float[np.ndarray, "n_test"]


def sparse_probes(
    features: Features, task: Task, ks: Sequence[int], *, selection: Selection = "difference"
) -> dict[int, Probe]:
    """For each k, the probe on the k features chosen. `features` [n, d] are of the task's examples, in its order."""
    train = ~task.test
    most = min(max(ks), features.shape[1])
    parts = [train] + [train & (task.fold != number) for number in range(FOLDS)]
    columns = [_told_apart(features, task.label, part, most, selection) for part in parts]
    dense = [_columns(features, chosen) for chosen in columns]
    found = {}
    for k in ks:
        C = _best_C([part[:, :k] for part in dense[1:]], task)
        score = _fit_and_score(dense[0][:, :k], task.label, train, task.test, [C])[0]
        found[k] = Probe(columns[0][:k].tolist(), C, score)
    return found


def dense_probe(features: Float[np.ndarray, "n d"], task: Task) -> Probe:
    """The probe on all features."""
    C = _best_C([features] * FOLDS, task)
    return Probe([], C, _fit_and_score(features, task.label, ~task.test, task.test, [C])[0])


def _told_apart(
    features: Features,
    label: Bool[np.ndarray, "n"],
    train: Bool[np.ndarray, "n"],
    most: int,
    selection: Selection,
) -> Int[np.ndarray, "most"]:
    """The features whose means over the two labels lie furthest apart in `train`, furthest first."""
    weight = np.where(label, 1.0 / (label & train).sum(), -1.0 / (~label & train).sum()) * train
    apart = np.abs(np.asarray(features.T @ weight)).ravel()
    if selection == "standardised":
        share = train / train.sum()
        mean = np.asarray(features.T @ share).ravel()
        square = features.multiply(features) if scipy.sparse.issparse(features) else features**2
        deviation = np.sqrt(np.maximum(np.asarray(square.T @ share).ravel() - mean**2, 0))
        apart = np.divide(apart, deviation, out=np.zeros_like(apart), where=deviation > 0)
    return np.argsort(-apart, kind="stable")[:most]


def _columns(features: Features, chosen: Int[np.ndarray, "k"]) -> Float[np.ndarray, "n k"]:
    part = features[:, chosen]
    return np.asarray(part.toarray() if scipy.sparse.issparse(part) else part, dtype=np.float64)


def _best_C(features: Sequence[Float[np.ndarray, "n d"]], task: Task) -> float:
    """`features`: for each inner fold, those that its other folds chose."""
    loss = np.zeros(len(C_GRID))
    for number in range(FOLDS):
        outside, inside = ~task.test & (task.fold != number), task.fold == number
        scores = _fit_and_score(features[number], task.label, outside, inside, C_GRID)
        loss += np.logaddexp(0, np.where(task.label[inside], -scores, scores)).mean(1)
    return C_GRID[int(np.argmin(loss.round(6)))]


def _fit_and_score(
    features: Float[np.ndarray, "n d"],
    label: Bool[np.ndarray, "n"],
    train: Bool[np.ndarray, "n"],
    test: Bool[np.ndarray, "n"],
    Cs: Sequence[float],
) -> Float[np.ndarray, "Cs n_test"]:
    """Log odds of the test examples by a regression on the training ones. Both labels weigh the same."""
    fitted = features[train]
    mean, deviation = fitted.mean(0), fitted.std(0)
    deviation[deviation == 0] = 1
    weights, biases = fit_logistic((fitted - mean) / deviation, label[train], Cs)
    scores: np.ndarray = weights @ ((features[test] - mean) / deviation).T + biases[:, None]
    return scores
