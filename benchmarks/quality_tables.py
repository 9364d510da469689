"""Tables of finished cells, in Markdown.

The first sets every library's cell beside saescope's of the same architecture, point, tokens and L0. The second says how
many tokens saescope needs for the error at which the other library ended. Where saescope has no cell within 1 % of the other
library's L0, its nearest one stands there; the L0 columns show it.

Intervals are 95 %: Student's t over seeds where there are at least three, else a bootstrap over held-out documents (marked
"doc"). The difference is always a bootstrap over documents, paired: both errors come from the same resampled documents,
each averaged over its library's seeds.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from quality_cells import OURS, Result, results

T_975 = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
RESAMPLES = 2000
L0_TOLERANCE = 0.01
RECORDED = (
    "library", "version", "arch", "reads", "writes", "skip", "passes", "tokens", "seed", "lr", "d_sae", "optimizer",
    "coefficient", "target_l0", "l0", "fvu_centered", "dead", "seconds", "threads", "weights_error", "settings",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed only."""

    cells: tuple[Result, ...]

    @property
    def record(self) -> dict:
        return self.cells[0].record

    @property
    def fvu(self) -> float:
        return fmean(cell.fvu for cell in self.cells)

    @property
    def l0(self) -> float:
        return fmean(cell.l0 for cell in self.cells)

    @property
    def tokens(self) -> int:
        return int(self.record["tokens"])

    def by_document(self, name: str) -> np.ndarray:
        return np.mean([cell.sums[name] for cell in self.cells], axis=0)


def shape(record: dict) -> tuple:
    """What two libraries' cells must share to be compared, besides L0 and tokens."""
    return tuple(record[name] for name in ("arch", "reads", "writes", "skip", "d_sae"))


def groups(cells: Path) -> list[Group]:
    found: dict[tuple, list[Result]] = defaultdict(list)
    for cell in results(cells):
        setting = tuple(
            cell.record[name] for name in ("library", "tokens", "lr", "optimizer", "coefficient", "target_l0")
        )
        found[(*shape(cell.record), *setting)].append(cell)
    return [Group(tuple(sorted(cells, key=lambda cell: cell.record["seed"]))) for cells in found.values()]


def table(cells: Path) -> str:
    every = groups(cells)
    ours = [group for group in every if group.record["library"] == OURS]
    whole = [group for group in every if group.record["library"] != OURS and group.record["passes"] >= 0.25]
    peers = [_chosen(same) for same in _together(whole)]
    peers.sort(key=lambda peer: (peer.record["skip"], peer.record["reads"], peer.tokens, peer.record["arch"]))
    return "\n\n".join(part for part in (_errors(peers, ours), _tokens(peers, ours), _failures(cells)) if part)


def write_record(cells: Path, path: Path) -> None:
    """One line a cell, numbers and settings only. What the file has of other cells stays; a cell measured again is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    by_setting = {_setting(record): record for record in kept}
    for cell in results(cells):
        by_setting[_setting(cell.record)] = {key: cell.record.get(key) for key in RECORDED}
    path.write_text("".join(json.dumps(record) + "\n" for record in by_setting.values()))


def _setting(record: dict) -> tuple:
    """What a cell is, without what came out of it."""
    names = ("library", "tokens", "seed", "lr", "optimizer", "coefficient", "target_l0")
    return (*shape(record), *(record[name] for name in names))


def _together(peers: list[Group]) -> list[list[Group]]:
    """Groups of one library that differ in learning rate, optimiser or coefficient."""
    found: dict[tuple, list[Group]] = defaultdict(list)
    for group in peers:
        found[(*shape(group.record), group.record["library"], group.tokens)].append(group)
    return list(found.values())


def _chosen(same: list[Group]) -> Group:
    """The library's best: lowest error on its first seed, among those nearest to the L0 that was asked for."""

    def distance(group: Group) -> float:
        off = abs(math.log(max(group.l0, 1e-9) / group.record["target_l0"]))
        return 0.0 if off < L0_TOLERANCE else off

    nearest = min(distance(group) for group in same)
    return min((group for group in same if distance(group) == nearest), key=lambda group: group.cells[0].fvu)


def _equal(peer: Group, ours: list[Group], tokens: int | None) -> Group | None:
    """saescope's best cell at the peer's L0, of so many tokens; the nearest L0 where none is within the tolerance."""
    same = [group for group in ours if shape(group.record) == shape(peer.record)]
    same = [group for group in same if tokens is None or group.tokens == tokens]
    if not same:
        return None
    near = [group for group in same if abs(group.l0 / peer.l0 - 1) <= L0_TOLERANCE]
    if near:
        return min(near, key=lambda group: group.cells[0].fvu)
    return min(same, key=lambda group: abs(math.log(group.l0 / peer.l0)))


def _errors(peers: list[Group], ours: list[Group]) -> str:
    head = ["architecture", "point", "tokens", "library", "FVU", "L0", "lr", "dead", "seeds"]
    head += ["saescope FVU", "L0", "lr", "dead", "seeds", "difference"]
    rows = []
    for peer in peers:
        mine = _equal(peer, ours, peer.tokens)
        record = peer.record
        point = record["reads"] if record["reads"] == record["writes"] else f"{record['reads']} → {record['writes']}"
        rows.append([
            record["arch"] + (", skip transcoder" if record["skip"] else ""), point, f"{peer.tokens:,}", _library(record),
            *_columns(peer), *(_columns(mine) if mine else [""] * 5), _difference(mine, peer) if mine else "",
        ])  # fmt: skip
    return _markdown(head, rows)


def _library(record: dict) -> str:
    extra = f" ({record['optimizer']})" if record["optimizer"] else ""
    return f"{record['library']} {record['version']}{extra}"


def _columns(group: Group) -> list[str]:
    dead = fmean(cell.record["dead"] for cell in group.cells)
    return [_with_interval(group), f"{group.l0:.2f}", f"{group.record['lr']:.3g}", f"{dead:.3f}", str(len(group.cells))]


def _with_interval(group: Group) -> str:
    values = [cell.fvu for cell in group.cells]
    if len(values) in T_975:
        half = T_975[len(values)] * stdev(values) / math.sqrt(len(values))
        return f"{group.fvu:.4f} [{group.fvu - half:.4f}, {group.fvu + half:.4f}]"
    low, high = _bootstrap(group.by_document("error"), group.by_document("spread"))
    return f"{group.fvu:.4f} [{low:.4f}, {high:.4f}] doc"


def _difference(mine: Group, peer: Group) -> str:
    spread = peer.by_document("spread")
    error = mine.by_document("error") - peer.by_document("error")
    low, high = _bootstrap(error, spread)
    return f"{error.sum() / spread.sum():+.4f} [{low:+.4f}, {high:+.4f}]"


def _bootstrap(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float]:
    """Percentile interval of a ratio of sums over resampled documents."""
    drawn = np.random.default_rng(0).integers(len(numerator), size=(RESAMPLES, len(numerator)))
    low, high = np.quantile(numerator[drawn].sum(1) / denominator[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


def _tokens(peers: list[Group], ours: list[Group]) -> str:
    head = ["architecture", "point", "library", "its FVU", "its tokens", "saescope's tokens to that FVU", "share"]
    rows = []
    for peer in peers:
        budgets = sorted({group.tokens for group in ours if shape(group.record) == shape(peer.record)})
        curve = {tokens: group.fvu for tokens in budgets if (group := _equal(peer, ours, tokens))}
        if len(curve) < 2:
            continue
        sign, needed = tokens_to_reach(curve, peer.fvu)
        record = peer.record
        rows.append([
            record["arch"], record["writes"], _library(record), f"{peer.fvu:.4f}", f"{peer.tokens:,}",
            f"{sign}{needed:,.0f}", f"{sign}{needed / peer.tokens:.2f}",
        ])  # fmt: skip
    return _markdown(head, rows)


def _failures(cells: Path) -> str:
    """Cells that could not be trained, and why: a list, empty where all went well."""
    failed = [json.loads(path.read_text()) for path in sorted(cells.glob("*/failed.json"))]
    return "\n".join(f"- {found['cell']} failed: {found['reason']}" for found in failed)


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


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
