"""What the probes of one task found, and what they come to together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saescope.evaluation.part import Estimate
from saescope.evaluation.probing.probe import Probe, Selection
from saescope.evaluation.probing.quality import mean_over
from saescope.evaluation.probing.task import Task

CODER = "coder"
DENSE = "dense"


@dataclass(frozen=True)
class Result:
    """A probe and its `accuracy`, `f1`, `auc` on the test examples."""

    probe: Probe
    qualities: dict[str, Estimate]

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, estimate in self.qualities.items():
            found[name] = [_rounded(estimate.value), *(_rounded(end) for end in estimate.interval or ())]
        found["C"] = self.probe.C
        if self.probe.features:
            found["features"] = self.probe.features
        return found


# By what was probed ("coder", "dimensions", "frozen_random", "dense"; see `named`), k -> result; a dense probe has k = 0.
Results = dict[str, dict[int, Result]]


def named(what: str, selection: Selection) -> str:
    """Under which name results stand: `coder`, or `coder, standardised` with features chosen by the other rule."""
    return what if selection == "difference" or what == DENSE else f"{what}, {selection}"


@dataclass(frozen=True)
class Outcome:
    """A task and all its probes."""

    task: Task
    results: Results

    def value(self, what: str, k: int, quality: str) -> float | None:
        found = self.results.get(what, {}).get(0 if what == DENSE else k)
        return None if found is None else found.qualities[quality].value

    def record(self) -> dict[str, Any]:
        """Each quality as [value, low, high], 95 %, or [value] with too few groups for an interval."""
        probes = {
            what: {f"k{k}" if k else "all": result.record() for k, result in by_k.items()}
            for what, by_k in self.results.items()
        }
        return self.task.record() | {"probes": probes}


def by_unit(outcomes: Sequence[Outcome], what: str, k: int, quality: str, *, unit: str = "task") -> list[float]:
    """The value of each task, or with `unit` = "source" the mean of each set's tasks, so that every set counts once."""
    values: dict[str, list[float]] = {}
    for outcome in outcomes:
        value = outcome.value(what, k, quality)
        if value is not None:
            key = outcome.task.source if unit == "source" else f"{outcome.task.source}/{outcome.task.name}"
            values.setdefault(key, []).append(value)
    return [float(np.mean(found)) for found in values.values()]


def mean(
    outcomes: Sequence[Outcome], what: str, k: int, quality: str, *, unit: str, resamples: int, seed: int
) -> Estimate:
    """Over tasks or sets, its interval over resamples of them. A single task keeps its own interval over groups."""
    if len(outcomes) == 1 and (found := outcomes[0].results.get(what, {}).get(0 if what == DENSE else k)):
        return found.qualities[quality]
    return mean_over(by_unit(outcomes, what, k, quality, unit=unit), resamples, seed)


def difference(outcomes: Sequence[Outcome], other: str, k: int, quality: str, *, resamples: int, seed: int) -> Estimate:
    """The coder's value minus the other's, mean over tasks. Task by task, so that how hard a task is falls out."""
    own, others = (by_unit(outcomes, what, k, quality) for what in (CODER, other))
    if len(own) != len(others):
        return Estimate(None)
    return mean_over([a - b for a, b in zip(own, others, strict=True)], resamples, seed)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
