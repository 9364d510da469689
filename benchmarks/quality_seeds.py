"""Recorded cells of at least two seeds: each library's mean error with its interval, and saescope's difference from it.

Intervals are 95 %, by Student's t over seeds; those of differences by Welch's t, which lets the two spreads differ.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import t as student
from scipy.stats import ttest_ind

from quality_cells import OURS

LEAST_SEEDS = 2
SHAPE = ("arch", "reads", "writes", "skip", "d_sae", "tokens", "target_l0")
SETTING = ("library", "version", "lr", "optimizer", "coefficient")


def table(path: Path) -> str:
    """Markdown, a row a library and architecture, saescope first."""
    groups: dict[tuple, dict[tuple, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for line in path.read_text().splitlines():
        record = json.loads(line)
        groups[tuple(record[name] for name in SHAPE)][tuple(record[name] for name in SETTING)].append(record)
    lines = [
        "| architecture | point | passes | library | seeds | FVU | L0 | never fire | saescope's difference | "
        "share of its error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in sorted(groups, key=str):
        found = [records for records in groups[shape].values() if len(records) >= LEAST_SEEDS]
        mine = next((records for records in found if records[0]["library"] == OURS), None)
        for records in sorted(found, key=lambda records: (records[0]["library"] != OURS, _mean(records))):
            beside = "" if mine in (None, records) else _difference(mine, records)
            share = "" if mine in (None, records) else f"{_mean(mine) / _mean(records):.2f}"
            record = records[0]
            point = (
                record["reads"] if record["reads"] == record["writes"] else f"{record['reads']} to {record['writes']}"
            )
            library = f"{record['library']} {record['version']}"
            l0, dead = (fmean(one[name] for one in records) for name in ("l0", "dead"))
            cells = [
                record["arch"],
                point,
                f"{record['passes']:g}",
                library,
                str(len(records)),
                _interval(records),
                f"{l0:.2f}",
                f"{dead:.1%}",
                beside,
                share,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _errors(records: list[dict]) -> np.ndarray:
    return np.array([record["fvu_centered"] for record in records])


def _mean(records: list[dict]) -> float:
    return float(_errors(records).mean())


def _interval(records: list[dict]) -> str:
    errors = _errors(records)
    half = student.ppf(0.975, len(errors) - 1) * errors.std(ddof=1) / np.sqrt(len(errors))
    return f"{errors.mean():.4f} [{errors.mean() - half:.4f}, {errors.mean() + half:.4f}]"


def _difference(mine: list[dict], other: list[dict]) -> str:
    a, b = _errors(mine), _errors(other)
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return f"{a.mean() - b.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
