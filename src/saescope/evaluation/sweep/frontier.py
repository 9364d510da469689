"""From a sweep's records to curves: each metric against L0, its spread over seeds, and the controls' curves.

With three seeds or more a point is their mean with a 95 % interval by Student's t; with fewer it carries the first seed's own
interval, over documents or words, where that was measured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from saescope.evaluation.bootstrap import Interval
from saescope.evaluation.definitions import BY_KEY
from saescope.evaluation.part import Estimate
from saescope.evaluation.resampling import interval_over_seeds
from saescope.evaluation.sweep.grid import FROZEN_DECODER

CORE = ("fvu_centered", "ce_recovered_mean", "kl", "dead_fraction")
Record = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A point of a curve. l0, value: means over seeds. interval: 95 %, or None. n_seeds: how many."""

    l0: float
    value: float
    interval: Interval | None
    n_seeds: int


@dataclass(frozen=True)
class Series:
    """A curve: of an architecture at one d_sae, or of a control."""

    label: str
    places: tuple[Place, ...]
    control: bool = False


@dataclass(frozen=True)
class Frontier:
    """One metric against L0. better: which way is good."""

    key: str
    label: str
    meaning: str
    better: str
    series: tuple[Series, ...]


def frontier_of(records: Sequence[Record]) -> list[Frontier]:
    """Every metric that some record has: the core's, then each part's scores."""
    sizes = {record["cell"]["d_sae"] for record in records}
    found = []
    for key in CORE:
        metric = BY_KEY[key]
        series = _series(records, lambda row, key=key: _core(row, "coder", key), sizes)
        controls = _controls(records, key)
        found.append(Frontier(key, metric.label, metric.meaning, metric.better, (*series, *controls)))
    for part, score in _scores(records):
        series = _series(records, lambda row, part=part, score=score: _part(row, part, score), sizes)
        names = sorted({name for row in records for name in _beside(row, part, score)})
        controls = [
            curve
            for name in names
            for curve in _together(name, records, lambda row, n=name, p=part, s=score: _beside(row, p, s).get(n))
        ]
        found.append(Frontier(f"{part}.{score}", score.replace("_", " "), "", "", (*series, *controls)))
    return [frontier for frontier in found if any(series.places for series in frontier.series)]


def csv_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """A row a cell: who it is, every core metric with its interval and controls, every score of every part."""
    rows = []
    for record in records:
        row = {key: record["cell"][key] for key in ("name", "arch", "d_sae", "seed")}
        row["wanted_l0"] = record["cell"]["l0"]
        for key in BY_KEY:
            row[key] = record["coder"].get(key)
            interval = record["intervals"]["coder"].get(key)
            if interval is not None:
                row[f"{key}.low"], row[f"{key}.high"] = interval
            for name, control in record["controls"].items():
                if control.get(key) is not None:
                    row[f"{key}.{name}"] = control[key]
        for part, scores in record["parts"].items():
            for key, score in scores.get("scores", {}).items():
                row[f"{part}.{key}"] = score["value"]
                if score["interval"] is not None:
                    row[f"{part}.{key}.low"], row[f"{part}.{key}.high"] = score["interval"]
                for name, control in score["controls"].items():
                    row[f"{part}.{key}.{name}"] = control["value"]
        rows.append(row)
    return rows


def _series(records: Sequence[Record], read: Any, sizes: set[int]) -> list[Series]:
    found = []
    for arch, d_sae in dict.fromkeys((row["cell"]["arch"], row["cell"]["d_sae"]) for row in records):
        own = [row for row in records if (row["cell"]["arch"], row["cell"]["d_sae"]) == (arch, d_sae)]
        label = arch.replace("_", " ") if len(sizes) < 2 else f"{arch.replace('_', ' ')}, {d_sae:,} latents"
        found.append(Series(label, _places(own, read), control=arch == FROZEN_DECODER))
    # The control that had to be trained stands with the others, after the coders.
    return sorted(found, key=lambda series: series.control)


def _controls(records: Sequence[Record], key: str) -> list[Series]:
    names = list(dict.fromkeys(name for row in records for name in row["controls"]))
    return [
        curve
        for name in names
        for curve in _together(name, records, lambda row, name=name: _core(row, name, key), of=name)
    ]


def _together(name: str, records: Sequence[Record], read: Any, of: str | None = None) -> list[Series]:
    """A control's curve: it depends on L0 and size, so the cells of all architectures at one wanted L0 are one point."""
    own = [row for row in records if row["cell"]["arch"] != FROZEN_DECODER]
    sizes = sorted({row["cell"]["d_sae"] for row in own})
    largest = [row for row in own if row["cell"]["d_sae"] == sizes[-1]] if sizes else []
    places = []
    for wanted in sorted({row["cell"]["l0"] for row in largest}):
        rows = [row for row in largest if row["cell"]["l0"] == wanted]
        values = [(row, value.value) for row in rows if (value := read(row)) is not None and value.value is not None]
        if values:
            l0s = [(row["controls"].get(of, {}).get("l0") if of else None) or row["coder"]["l0"] for row, _ in values]
            mean = fmean(value for _, value in values)
            places.append(Place(fmean(l0s), mean, None, len({row["cell"]["seed"] for row, _ in values})))
    return [Series(name.replace("_", " "), tuple(places), control=True)] if places else []


def _places(rows: Sequence[Record], read: Any) -> tuple[Place, ...]:
    by_wanted: dict[float, list[tuple[float, float, Interval | None]]] = defaultdict(list)
    for row in rows:
        found = read(row)
        if found is not None and found.value is not None:
            by_wanted[row["cell"]["l0"]].append((row["coder"]["l0"], found.value, found.interval))
    places = []
    for group in by_wanted.values():
        values = [value for _, value, _ in group]
        interval = _interval(values, group[0][2])
        places.append(Place(fmean(l0 for l0, _, _ in group), fmean(values), interval, len(group)))
    return tuple(sorted(places, key=lambda place: place.l0))


def _interval(values: Sequence[float], own: Interval | None) -> Interval | None:
    # Equal values are one value that the seeds share, such as their stability, with an interval of its own.
    return own if len(set(values)) == 1 else interval_over_seeds(values)


def _core(row: Record, who: str, key: str) -> Estimate | None:
    numbers = row["coder"] if who == "coder" else row["controls"].get(who, {})
    if numbers.get(key) is None:
        return None
    interval = row["intervals"].get(who, {}).get(key)
    return Estimate(numbers[key], None if interval is None else (interval[0], interval[1]))


def _part(row: Record, part: str, score: str) -> Estimate | None:
    found = row["parts"].get(part, {}).get("scores", {}).get(score)
    return None if found is None else _estimate(found)


def _beside(row: Record, part: str, score: str) -> dict[str, Estimate]:
    found = row["parts"].get(part, {}).get("scores", {}).get(score, {})
    return {name: _estimate(control) for name, control in found.get("controls", {}).items()}


def _estimate(found: dict[str, Any]) -> Estimate:
    interval = found["interval"]
    return Estimate(found["value"], None if interval is None else (interval[0], interval[1]))


def _scores(records: Sequence[Record]) -> list[tuple[str, str]]:
    pairs = [
        (part, score) for row in records for part, found in row["parts"].items() for score in found.get("scores", {})
    ]
    return list(dict.fromkeys(pairs))
