"""How many features a letter needs: k-sparse probes, one feature more as long as it helps.

Candidates are the features whose mean on the letter's words is furthest above that on other words, in units of the
feature's own standard deviation. Among them the one is added whose probe has the best F1 on the training words: a
logistic regression on the chosen features, thresholded where F1 is best. The letter is split over as many features as
were added while F1 rose by more than .03 (Chanin et al., 2024, "A is for Absorption"); the first is always taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from saescope.evaluation.code_matrix import dense_columns
from saescope.evaluation.linear_probe import best_threshold, sparse_scores

RISE = 0.03
CANDIDATES = 16
MOST_SPLITS = 10


@dataclass(frozen=True)
class SparseProbe:
    """A probe on few features: seen where features[:, chosen] · weight > threshold. `train_f1` after each added one."""

    chosen: tuple[int, ...] = ()
    weight: tuple[float, ...] = ()
    threshold: float = 0.0
    train_f1: tuple[float, ...] = ()

    def sees(self, features: sparse.spmatrix) -> Bool[Tensor, "n"]:
        """On which rows of [n, features] this probe says yes; on none where it has no feature."""
        if not self.chosen:
            return torch.zeros(features.shape[0], dtype=torch.bool)
        return dense_columns(features, list(self.chosen)) @ torch.tensor(self.weight) > self.threshold


@dataclass(frozen=True)
class LetterFeatures:
    """A letter's probe on the best single feature, and on all of the features it is split over."""

    single: SparseProbe = field(default_factory=SparseProbe)
    split: SparseProbe = field(default_factory=SparseProbe)


class Candidates:
    """Ranks the columns of one feature matrix, [words, features], by how far a letter moves them."""

    def __init__(self, features: sparse.csr_matrix) -> None:
        self.features = features.tocsc()
        # Sums in float64: a dimension's mean may be a hundred times its standard deviation.
        self._rows = features.tocsr().astype(np.float64)
        n = features.shape[0]
        self._total = torch.from_numpy(self._rows.sum(0).A1)
        square = torch.from_numpy(self._rows.multiply(self._rows).sum(0).A1)
        self._spread = (square / n - (self._total / n).square()).clamp(min=0).sqrt()

    def of(self, member: Bool[Tensor, "words"], count: int, *, either_sign: bool = False) -> Int[Tensor, "candidates"]:
        """The columns that stand out, best first; fewer than `count` where fewer do."""
        inside = torch.from_numpy(self._rows[member.numpy()].sum(0).A1)
        n_inside = int(member.sum())
        difference = inside / n_inside - (self._total - inside) / (member.numel() - n_inside)
        # A column that never varies says nothing; rounding alone must not make it a candidate.
        varies = self._spread > 1e-6 * (self._total.abs() / member.numel())
        standing = torch.where(varies, difference / self._spread.clamp(min=1e-30), 0.0)
        standing = standing.abs() if either_sign else standing
        top = standing.topk(min(count, standing.numel()))
        return top.indices[top.values > 0]


def letter_features(
    candidates: Candidates, member: Bool[Tensor, "words"], *, most: int = MOST_SPLITS, either_sign: bool = False
) -> LetterFeatures:
    """One letter's features. All words are training words."""
    columns = candidates.of(member, CANDIDATES, either_sign=either_sign).tolist()
    if not columns:
        return LetterFeatures()
    values = dense_columns(candidates.features, columns)
    single = split = _extended(values, columns, SparseProbe(), member)
    while len(split.chosen) < min(most, len(columns)):
        longer = _extended(values, columns, split, member)
        if longer.train_f1[-1] - split.train_f1[-1] <= RISE:
            break
        split = longer
    return LetterFeatures(single, split)


def _extended(
    values: Float[Tensor, "words candidates"], columns: Sequence[int], probe: SparseProbe, member: Bool[Tensor, "words"]
) -> SparseProbe:
    """The probe with one more feature, the best there is."""
    taken = [columns.index(column) for column in probe.chosen]
    free = [place for place in range(len(columns)) if place not in taken]
    trials = torch.stack([values[:, [*taken, place]] for place in free])
    weight, scores = sparse_scores(trials, member)
    found = [best_threshold(row, member) for row in scores]
    best = max(range(len(free)), key=lambda trial: found[trial][1])
    return SparseProbe(
        (*probe.chosen, columns[free[best]]),
        tuple(weight[best].tolist()),
        found[best][0],
        (*probe.train_f1, found[best][1]),
    )
