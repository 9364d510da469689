"""Mean and spread of activations, accumulated in float64 in the order of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 4096


@dataclass(frozen=True)
class PointStatistics:
    """Moments of the kept training rows at one point.

    `mean` is E x, `variance` the per-dimension E (x - E x)^2, both float64; `mean_square` is E‖x‖² and
    `mean_square_centered` is E‖x - E x‖².
    """

    n_rows: int
    mean: Float[Tensor, "d"]
    variance: Float[Tensor, "d"]

    @property
    def mean_square_centered(self) -> float:
        return float(self.variance.sum())

    @property
    def mean_square(self) -> float:
        return float(self.variance.sum() + self.mean.square().sum())


class Moments:
    """Count, mean and sum of squared deviations, merged pairwise (Chan, Golub, LeVeque 1979).

    numpy rather than torch: these sums run in one thread, so the result does not depend on the thread count.
    """

    def __init__(self, width: int):
        self.n_rows = 0
        self.mean = np.zeros(width)
        self.deviation = np.zeros(width)

    def add(self, rows: Float[Tensor, "n d"]) -> Self:
        for start in range(0, len(rows), _CHUNK):
            values = rows[start : start + _CHUNK].double().numpy()
            mean = values.mean(axis=0)
            values -= mean
            self.merge(len(values), mean, np.einsum("nd,nd->d", values, values))
        return self

    def merge(self, n_rows: int, mean: np.ndarray, deviation: np.ndarray) -> None:
        if not n_rows:
            return
        total = self.n_rows + n_rows
        delta = mean - self.mean
        self.deviation = self.deviation + deviation + np.square(delta) * (self.n_rows * n_rows / total)
        self.mean = self.mean + delta * (n_rows / total)
        self.n_rows = total

    def statistics(self) -> PointStatistics:
        return PointStatistics(
            self.n_rows, torch.from_numpy(self.mean.copy()), torch.from_numpy(self.deviation / max(self.n_rows, 1))
        )
