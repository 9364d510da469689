"""A cell: one coder of one library, trained and measured. Finished when its cell.json exists, which is written last."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

OURS = "saescope"


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
    """A finished cell: its record, and its sums by held-out document (`error`, `spread`, `active`, `tokens`)."""

    record: dict[str, Any]
    folder: Path

    @property
    def fvu(self) -> float:
        return float(self.record["fvu_centered"])

    @property
    def l0(self) -> float:
        return float(self.record["l0"])

    @property
    def sums(self) -> dict[str, np.ndarray]:
        with np.load(self.folder / "documents.npz") as found:
            return {name: found[name] for name in found.files}


@dataclass(frozen=True)
class Finished:
    """The cells of a folder, and of a record (`quality.py table --record`) those that were measured elsewhere before."""

    folder: Path
    recorded: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, folder: Path, record: Path | None = None) -> Finished:
        """FileNotFoundError where the record is not there."""
        records = map(json.loads, record.read_text().splitlines() if record else [])
        return cls(folder, {_name_of(one): one for one in records})

    def result(self, cell: Cell) -> Result | None:
        """None where the cell is not finished, or failed. One that is only recorded has no sums."""
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


def _name_of(record: dict[str, Any]) -> str:
    given = {field.name: record[field.name] for field in fields(Cell)}
    return Cell(**given | {"l0": record["target_l0"]}).name


def results(cells: Path) -> Iterator[Result]:
    """Every finished cell with a finite error."""
    for path in sorted(cells.glob("*/cell.json")):
        found = Result(json.loads(path.read_text()), path.parent)
        if math.isfinite(found.fvu):
            yield found
