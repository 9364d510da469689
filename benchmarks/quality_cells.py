"""A cell: one coder of one library, trained and measured. Finished when its cell.json exists, which is written last.

The record is a file of one JSON line a cell: numbers and settings without weights, small enough to be kept with the code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

OURS = "saescope"
RECORDED = (
    "library", "version", "arch", "reads", "writes", "skip", "passes", "tokens", "seed", "lr", "d_sae", "optimizer",
    "coefficient", "target_l0", "l0", "fvu_centered", "dead", "seconds", "threads", "weights_error", "settings",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What is trained. `l0` is what is asked for; sparsity penalties have a coefficient instead of meeting it exactly."""

    library: str
    arch: str
    reads: str
    lr: float
    writes: str = ""
    passes: float = 1
    seed: int = 0
    l0: float = 32
    skip: bool = False
    coefficient: float | None = None
    optimizer: str | None = None

    @property
    def target(self) -> str:
        return self.writes or self.reads

    @property
    def name(self) -> str:
        """The cell's folder."""
        point = self.reads if self.target == self.reads else f"{self.reads}-to-{self.target}"
        parts = [self.library, self.arch, point, f"p{self.passes:g}", f"lr{self.lr:g}", f"s{self.seed}"]
        parts += [self.optimizer] if self.optimizer else []
        parts += [f"c{self.coefficient:g}"] if self.coefficient is not None else []
        parts += [f"l{self.l0:g}"] if self.l0 != 32 else []
        return "_".join(parts + (["skip"] if self.skip else []))


@dataclass(frozen=True)
class Result:
    """A finished cell."""

    record: dict[str, Any]
    folder: Path

    @property
    def fvu(self) -> float:
        return float(self.record["fvu_centered"])

    @property
    def l0(self) -> float:
        return float(self.record["l0"])


@dataclass(frozen=True)
class Finished:
    """The cells of a folder, and of a record those that were measured elsewhere before."""

    folder: Path
    recorded: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, folder: Path, record: Path | None = None) -> Finished:
        """FileNotFoundError where the record is not there."""
        return cls(folder, _recorded(record) if record else {})

    def result(self, cell: Cell) -> Result | None:
        """None where the cell is not finished, or failed."""
        folder = self.folder / cell.name
        if (path := folder / "cell.json").exists():
            return Result(json.loads(path.read_text()), folder)
        found = self.recorded.get(cell.name)
        return Result(found, folder) if found else None

    def results(self) -> Iterator[Result]:
        """Every one with a finite error; one that is in both comes from the folder."""
        mine = {found.folder.name: found for found in results(self.folder)}
        rest = (Result(found, self.folder / name) for name, found in self.recorded.items() if name not in mine)
        yield from (*mine.values(), *rest)


def results(cells: Path) -> Iterator[Result]:
    """Every finished cell with a finite error."""
    for path in sorted(cells.glob("*/cell.json")):
        found = Result(json.loads(path.read_text()), path.parent)
        if math.isfinite(found.fvu):
            yield found


def write_record(cells: Path, path: Path) -> None:
    """One line a cell, with its loss in the model where that was measured (`quality_ce`). What the file has of other cells
    stays; a cell measured again is replaced, its loss in the model too unless its error is the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = _recorded(path) if path.exists() else {}
    for cell in results(cells):
        before = kept.get(name_of(cell.record))
        measured = cell.folder / "ce.json"
        if measured.exists():
            ce = json.loads(measured.read_text())
        else:
            same = before is not None and math.isclose(before["fvu_centered"], cell.fvu, rel_tol=1e-9)
            ce = before.get("ce") if same else None
        record = {key: cell.record.get(key) for key in RECORDED}
        kept[name_of(record)] = record | ({"ce": ce} if ce else {})
    path.write_text("".join(json.dumps(record) + "\n" for record in kept.values()))


def failures(cells: Path) -> str:
    """Cells that could not be trained, and why: a list, empty where all went well."""
    failed = [json.loads(path.read_text()) for path in sorted(cells.glob("*/failed.json"))]
    return "\n".join(f"- {found['cell']} failed: {found['reason']}" for found in failed)


def name_of(record: dict[str, Any]) -> str:
    """The cell's name, by which the record knows it."""
    given = {field.name: record[field.name] for field in fields(Cell)}
    return Cell(**given | {"l0": record["target_l0"]}).name


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {name_of(record): record for record in records}
