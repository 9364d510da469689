"""The record of the comparison as Markdown: the tables of docs/comparison.md, which a test holds to it.

Cells that differ in their seed only are one group. Of each library that has an architecture one group stands in the main
table: the one with most seeds, then the one nearest to the L0 that was asked for, then the one with the lowest error; the
rest stand in a table of what else was tried. Beside each stands saescope's group of the same tokens whose L0 is nearest of
those with as many seeds and with at most the same L0 (2 % more is the same).

Intervals are 95 %: Student's t over seeds; for a difference Welch's, which lets the two spreads differ.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import t as student
from scipy.stats import ttest_ind

from quality_cells import OURS

NAMES = {"sae_lens": "SAELens", "dictionary_learning": "dictionary_learning", "sparsify": "sparsify", OURS: OURS}
# In the order in which a reader meets them.
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "jumprelu", "gated", "standard")
PASSES = {1.0: "one pass", 3.0: "three passes"}
SETTING = ("library", "arch", "reads", "writes", "skip", "passes", "lr", "optimizer", "coefficient", "target_l0")
L0_TOLERANCE = 0.02

Place = tuple[bool, str, str]


@dataclass(frozen=True)
class Group:
    """Records that differ in their seed only."""

    records: tuple[dict[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        return self.records[0][name]

    @property
    def ours(self) -> bool:
        return bool(self["library"] == OURS)

    @property
    def place(self) -> Place:
        return self["skip"], self["reads"], self["writes"]

    @cached_property
    def errors(self) -> np.ndarray:
        return np.array([record["fvu_centered"] for record in self.records])

    @property
    def fvu(self) -> float:
        return float(self.errors.mean())

    @property
    def l0(self) -> float:
        return fmean(record["l0"] for record in self.records)

    @property
    def dead(self) -> float:
        return fmean(record["dead"] for record in self.records)


def tables(record: Path) -> Iterator[tuple[str, str]]:
    """Title and Markdown of every table."""
    records = [json.loads(line) for line in record.read_text().splitlines()]
    every = groups(records)
    ours = [group for group in every if group.ours]
    theirs = [group for group in every if not group.ours]
    # Shorter runs are for the tokens column only.
    for place in sorted({group.place for group in every}):
        for passes, name in PASSES.items():
            where = f"{point(place)}, {name}"
            mine, others = (
                [one for one in of if one.place == place and one["passes"] == passes] for of in (ours, theirs)
            )
            yield f"saescope at {where}", _own(mine)
            kept = [_chosen(same) for same in _together(others)]
            yield f"other libraries at {where}", _beside(kept, ours)
            yield f"what else was tried of them at {where}", _rest([one for one in others if one not in kept], ours)
        yield f"saescope by length, {point(place)}", _lengths([one for one in ours if one.place == place])
    for passes, name in PASSES.items():
        yield f"with the coder in the model, {name}", _in_the_model([one for one in records if one["passes"] == passes])


def groups(records: Iterable[dict[str, Any]]) -> list[Group]:
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        found[tuple(record[name] for name in SETTING)].append(record)
    made = [Group(tuple(sorted(same, key=lambda record: record["seed"]))) for same in found.values()]
    return sorted(made, key=lambda group: (ARCHITECTURES.index(group["arch"]), group.fvu))


def point(place: Place) -> str:
    skip, reads, writes = place
    return (reads if reads == writes else f"{reads} to {writes}") + (", skip" if skip else "")


def tokens_to_reach(curve: dict[int, float], wanted: float) -> tuple[str, float]:
    """Tokens at which the error reaches `wanted`, linear in log tokens between whole runs of the curve's budgets.

    "< " with the smallest budget where that is already better, "> " with the largest where none is good enough.
    """
    budgets = sorted(curve)
    if curve[budgets[0]] <= wanted:
        return "< ", budgets[0]
    for low, high in pairwise(budgets):
        if curve[high] <= wanted:
            share = (curve[low] - wanted) / (curve[low] - curve[high])
            return "", math.exp(math.log(low) + share * math.log(high / low))
    return "> ", budgets[-1]


def _together(theirs: list[Group]) -> list[list[Group]]:
    """Groups of one library and architecture, which differ in learning rate, optimiser or coefficient."""
    found: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in theirs:
        found[group["arch"], group["library"]].append(group)
    return list(found.values())


def _chosen(same: list[Group]) -> Group:
    def rank(group: Group) -> tuple[float, float, float]:
        off = abs(math.log(max(group.l0, 1e-9) / group["target_l0"]))
        return -len(group.records), off if off > L0_TOLERANCE else 0.0, group.fvu

    return min(same, key=rank)


def _equal(theirs: Group, ours: list[Group]) -> Group | None:
    """saescope's group to be set beside theirs; None without one whose L0 is at most theirs."""
    same = [
        one for one in ours if all(one[name] == theirs[name] for name in ("arch", "reads", "writes", "skip", "passes"))
    ]
    fair = [one for one in same if one.l0 <= theirs.l0 * (1 + L0_TOLERANCE)]

    def rank(one: Group) -> tuple[float, float, float]:
        return min(len(one.records), len(theirs.records)), one.l0, -one.fvu

    return max(fair, key=rank, default=None)


def _own(ours: list[Group]) -> str:
    asked = [one for one in ours if one["target_l0"] == 32]
    rows = [[one["arch"], str(len(one.records)), _interval(one), f"{one.l0:.2f}", _percent(one.dead)] for one in asked]
    return _markdown(["architecture", "seeds", "held-out fvu_centered", "held-out L0", "never fire there"], rows)


def _beside(theirs: list[Group], ours: list[Group]) -> str:
    head = ["architecture", "library", "seeds", "its FVU", "its L0", "never fire", "saescope's FVU", "its L0", "seeds"]
    rows = []
    for one in theirs:
        mine = _equal(one, ours)
        beside = (
            [_interval(mine), f"{mine.l0:.1f}", str(len(mine.records)), _difference(mine, one)] if mine else [""] * 4
        )
        rows.append([
            one["arch"], _library(one), str(len(one.records)), _interval(one), f"{one.l0:.1f}", _percent(one.dead),
            *beside, _tokens(one, mine, ours) if mine else "",
        ])  # fmt: skip
    return _markdown([*head, "difference", "saescope's tokens for its FVU"], rows)


def _rest(theirs: list[Group], ours: list[Group]) -> str:
    head = ["architecture", "library", "rate", "its FVU", "its L0", "never fire", "saescope's FVU", "its L0"]
    rows = []
    for one in sorted(theirs, key=lambda one: (ARCHITECTURES.index(one["arch"]), one["library"], -one.l0)):
        mine = _equal(one, ours)
        beside = [_short(mine.fvu), f"{mine.l0:.1f}"] if mine else ["", ""]
        start = [one["arch"], _library(one), f"{one['lr']:.3g}", _short(one.fvu)]
        rows.append([*start, f"{one.l0:.1f}", _percent(one.dead), *beside])
    return _markdown(head, rows)


def _lengths(ours: list[Group]) -> str:
    asked = [one for one in ours if one["target_l0"] == 32]
    lengths = sorted({(one["passes"], one["tokens"]) for one in asked})
    rows = []
    for arch in ARCHITECTURES:
        found = {one["passes"]: _short(one.fvu) for one in asked if one["arch"] == arch}
        if len(found) > 1:
            rows.append([arch, *(found.get(passes, "") for passes, _ in lengths)])
    return _markdown(["architecture", *(f"{tokens:,}" for _, tokens in lengths)], rows)


def _in_the_model(records: list[dict[str, Any]]) -> str:
    head = ["point", "architecture", "library", "seed", "L0", "fvu_centered", "CE recovered (mean ablation)", "KL"]
    measured = [Group((record,)) for record in records if record.get("ce")]
    rows = []
    for one in sorted(measured, key=lambda one: (one.place, ARCHITECTURES.index(one["arch"]), one["library"], one.l0)):
        ce = one["ce"]
        low, high = ce["interval"]
        recovered = f"{_short(ce['ce_recovered_mean'])} [{_short(low)}, {_short(high)}]"
        name = NAMES[one["library"]] + (f" ({one['optimizer']})" if one["optimizer"] else "")
        start = [point(one.place), one["arch"], name, str(one["seed"]), f"{ce['l0']:.1f}"]
        rows.append([*start, _short(ce["fvu_centered"]), recovered, _short(ce["kl"])])
    return _markdown(head, rows)


def _tokens(theirs: Group, mine: Group, ours: list[Group]) -> str:
    """saescope's tokens for their error, as a share of theirs, by its runs of all lengths at that L0."""
    same = ("arch", "reads", "writes", "skip", "target_l0")
    curve = {one["tokens"]: one.fvu for one in ours if all(one[name] == mine[name] for name in same)}
    if len(curve) < 2:
        return ""
    sign, needed = tokens_to_reach(curve, theirs.fvu)
    return sign + _short(needed / theirs["tokens"], 2)


def _library(group: Group) -> str:
    of = [group["optimizer"]] if group["optimizer"] else []
    of += [f"coefficient {group['coefficient']:g}"] if group["coefficient"] is not None else []
    return f"{NAMES[group['library']]} {group['version']}" + (f" ({', '.join(of)})" if of else "")


def _interval(group: Group) -> str:
    errors, n = group.errors, len(group.records)
    if n < 2:
        return _short(group.fvu)
    half = student.ppf(0.975, n - 1) * errors.std(ddof=1) / math.sqrt(n)
    return f"{_short(group.fvu)} [{_short(group.fvu - half)}, {_short(group.fvu + half)}]"


def _difference(mine: Group, theirs: Group) -> str:
    difference = _short(mine.fvu - theirs.fvu)
    if min(len(mine.records), len(theirs.records)) < 2:
        return difference
    low, high = ttest_ind(mine.errors, theirs.errors, equal_var=False).confidence_interval(0.95)
    return f"{difference} [{_short(low)}, {_short(high)}]"


def _short(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits - 1}f}"


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %") if share >= 0.1 else f"{100 * share:.1f} %"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    """Empty without rows."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) if rows else ""


def put_into(page: str, made: Iterable[tuple[str, str]]) -> str:
    """The page with every table that follows a comment of its title, `<!-- TITLE -->`, as it is now. ValueError where a table
    that has rows has no place there."""
    for title, text in made:
        if not text:
            continue
        place = re.compile(rf"(<!-- {re.escape(title)} -->\n)(?:\n(?:\|.*\n)+)?")
        page, found = place.subn(lambda match, text=text: f"{match[1]}\n{text}\n", page)
        if found != 1:
            raise ValueError(f"{found} places for the table of {title}")
    return page
