"""Reads what `quality.py export` wrote. Needs numpy and torch only, so that it runs in a peer's environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Exported:
    """An export's folder; see `quality_export` for the files."""

    folder: Path

    @property
    def described(self) -> dict:
        return json.loads((self.folder / "export.json").read_text())

    def width(self, point: str) -> int:
        return int(self.described["points"][point])

    def steps(self, passes: float) -> int:
        """Whole batches in so many passes over the training rows."""
        found = self.described
        return int(found["train_rows"] * passes) // int(found["batch_size"])

    def order(self, seed: int, n_steps: int) -> Tensor:
        """int64 [steps, batch]: which training rows make up each step."""
        return torch.from_numpy(np.load(self.folder / "order" / f"seed-{seed}.npy")[:n_steps].astype(np.int64))

    def train(self, point: str) -> Rows:
        return Rows(self.folder / "points" / point / "train.npy")

    def held_out(self, point: str) -> Rows:
        return Rows(self.folder / "points" / point / "held_out.npy")


class Rows:
    """bfloat16 rows on disk, as float32 on demand."""

    def __init__(self, path: Path) -> None:
        self._bits = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._bits)

    def take(self, rows: Tensor | slice) -> Tensor:
        """float32 [rows, width]."""
        index = rows.numpy() if isinstance(rows, Tensor) else rows
        return torch.from_numpy(np.array(self._bits[index])).view(torch.bfloat16).float()

    def chunks(self, size: int = 4096) -> Iterator[Tensor]:
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


class Batches:
    """The training batches of one seed, float32. Iterating again starts from the first step."""

    def __init__(self, rows: Rows, order: Tensor) -> None:
        self._rows, self._order = rows, order

    @property
    def batch_size(self) -> int:
        return int(self._order.shape[1])

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Tensor]:
        return (self._rows.take(step) for step in self._order)
