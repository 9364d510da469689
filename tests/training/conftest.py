"""Activations in memory, so that training is tested without a model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saescope.activations import Moments, PointStatistics


@dataclass
class MemorySource:
    """An `ActivationSource` over a tensor [rows, d_total]: each pass its own shuffle, batches a function of the step."""

    rows: Tensor
    widths: dict[str, int]
    batch_size: int = 64
    seed: int = 0
    passes: float = 1
    held_out: Tensor | None = None
    step: int = field(default=0, init=False)

    @property
    def points(self) -> tuple[str, ...]:
        return tuple(self.widths)

    @property
    def n_rows(self) -> int:
        return self.rows.shape[0]

    @property
    def n_steps(self) -> int:
        return int(self.n_rows * self.passes) // self.batch_size

    def statistics(self) -> dict[str, PointStatistics]:
        parts = self.rows.split(list(self.widths.values()), dim=1)
        return {
            point: Moments(width).add(part).statistics()
            for (point, width), part in zip(self.widths.items(), parts, strict=True)
        }

    def held_out_rows(self, max_rows: int) -> Tensor:
        return self.rows[:0] if self.held_out is None else self.held_out[:max_rows]

    def provenance(self) -> dict[str, Any]:
        return {
            "model": {"name": "none"},
            "corpus": {},
            "sequences": {},
            "kept_rule": {},
            "trained_documents": ["d0"],
            "rows": self.n_rows,
            "rows_hash": zlib.crc32(self.rows.numpy().tobytes()),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]

    def __iter__(self) -> Iterator[Tensor]:
        n = self.n_rows
        while self.step < self.n_steps:
            at = torch.arange(self.step * self.batch_size, (self.step + 1) * self.batch_size)
            passes = at // n
            batch = torch.empty(self.batch_size, self.rows.shape[1], dtype=self.rows.dtype)
            for number in passes.unique().tolist():
                order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed * 1000 + number))
                mine = passes == number
                batch[mine] = self.rows[order[at[mine] % n]]
            self.step += 1
            yield batch

    def close(self) -> None:
        pass


def planted(rows: int = 4096, width: int = 24, features: int = 32, active: int = 3, seed: int = 0) -> Tensor:
    """Sparse sums of unit directions, with an offset: what a sparse coder is for."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(features, width, generator=torch.Generator().manual_seed(99))
    directions /= directions.norm(dim=1, keepdim=True)
    strength = torch.zeros(rows, features)
    chosen = torch.rand(rows, features, generator=generator).topk(active, dim=1).indices
    strength.scatter_(1, chosen, 1 + torch.rand(rows, active, generator=generator))
    return strength @ directions * 5 + 20
