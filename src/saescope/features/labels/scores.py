"""How well rules predict, on positions that no rule was found on.

Balanced accuracy: half the share of firing positions at which the rule holds, and half the share of silent ones at which it
does not, random and neighbouring ones weighed equally. A rule that always holds, and one that never does, have 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saescope.features.labels.compiled import compiled
from saescope.features.labels.windows import Windows
from saescope.kernels.threads import in_ranges

RESAMPLES = 400
# An interval says nothing where hardly any part of the text is like another.
LEAST_SECTIONS = 5


@dataclass(frozen=True)
class Scores:
    """Balanced accuracy [features] and its 95 % interval; NaN without held-out windows. The interval is over sections of the
    text drawn with replacement, and NaN where there are fewer than five."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def balanced_accuracy(held: NDArray[np.bool_], counts: NDArray[np.int32]) -> NDArray[np.float64]:
    """[features], from whether each rule held [features, kind, most] at `counts` [features, kind] positions of each kind."""
    hits = held.sum(2, dtype=np.float64)
    share = np.divide(hits, counts, out=np.full(hits.shape, np.nan), where=counts > 0)
    negatives = share[:, 1:]
    known = np.maximum((~np.isnan(negatives)).sum(1), 1)
    rejected = 1 - np.nansum(negatives, 1) / known
    value: NDArray[np.float64] = np.where(np.isnan(negatives).all(1), np.nan, (share[:, 0] + rejected) / 2)
    return value


@compiled
def resample(start, stop, held, counts, section, seed, values):  # type: ignore[no-untyped-def]
    """Fills values [features, draws], ahead of NaN, with the balanced accuracies of redrawn sections. section [features, kind,
    most]: 0, 1, … within each row."""
    for row in range(start, stop):
        n_sections = 0
        for kind in range(3):
            for i in range(counts[row, kind]):
                n_sections = max(n_sections, section[row, kind, i] + 1)
        sums = np.zeros((n_sections, 3, 2), np.int32)
        for kind in range(3):
            for i in range(counts[row, kind]):
                sums[section[row, kind, i], kind, 0] += 1
                sums[section[row, kind, i], kind, 1] += held[row, kind, i]
        state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(counts[row, 0] + 1)
        if n_sections < LEAST_SECTIONS:
            continue
        n = 0
        for _ in range(values.shape[1]):
            total = np.zeros((3, 2), np.int64)
            for _ in range(n_sections):
                state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                own = np.int64((state >> np.uint64(33)) % np.uint64(n_sections))
                for kind in range(3):
                    total[kind, 0] += sums[own, kind, 0]
                    total[kind, 1] += sums[own, kind, 1]
            if total[0, 0] == 0 or total[1, 0] + total[2, 0] == 0:
                continue
            rejected, kinds = 0.0, 0
            for kind in range(1, 3):
                if total[kind, 0] > 0:
                    rejected += 1 - total[kind, 1] / total[kind, 0]
                    kinds += 1
            values[row, n] = (total[0, 1] / total[0, 0] + rejected / kinds) / 2
            n += 1


def scores_of(held: NDArray[np.bool_], windows: Windows, section: NDArray[np.int32], *, seed: int = 0) -> Scores:
    """Of rules that held at `held` [features, kind, most] of the held-out windows. section [positions]: of the text."""
    places, counts = windows.of(1)
    value = balanced_accuracy(held, counts)
    redrawn = np.full((value.size, RESAMPLES), np.nan, np.float32)
    drawn = np.arange(places.shape[2]) < counts[:, :, None]
    own = np.where(drawn, section[np.where(drawn, places, 0)], -1)
    numbered = _numbered(own)

    def work(start: int, stop: int) -> None:
        resample(start, stop, held, counts, numbered, seed, redrawn)

    in_ranges(work, value.size, 64)
    return Scores(value, _quantile(redrawn, 0.025), _quantile(redrawn, 0.975))


def _quantile(redrawn: NDArray[np.float32], q: float) -> NDArray[np.float64]:
    """Of each row without its NaN; NaN where these are more than half."""
    ordered = np.sort(redrawn, 1)  # NaN last
    n = (~np.isnan(redrawn)).sum(1)
    found = np.take_along_axis(ordered, np.rint(np.maximum(n - 1, 0) * q).astype(np.int64)[:, None], 1)[:, 0]
    return np.where(2 * n >= redrawn.shape[1], found.astype(np.float64), np.nan)


def _numbered(sections: NDArray[np.int32]) -> NDArray[np.int32]:
    """The sections of each row as 0, 1, …; -1 stays."""
    flat = sections.reshape(sections.shape[0], -1)
    order = np.argsort(flat, axis=1, kind="stable")
    ordered = np.take_along_axis(flat, order, 1)
    new = np.zeros(flat.shape, np.int32)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    number = np.cumsum(new, 1, dtype=np.int32) - (ordered[:, :1] < 0)
    out = np.empty_like(number)
    np.put_along_axis(out, order, number, 1)
    numbered: NDArray[np.int32] = np.where(flat < 0, -1, out).reshape(sections.shape).astype(np.int32)
    return numbered
