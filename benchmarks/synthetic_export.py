"""Synthetic rows as plain files in `quality_export`'s form, and as a source that hands them to saescope's trainer.

Both libraries train on the same bfloat16 rows in the same batches: one set of rows, visited in an order of each seed's own.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exported import Exported
from numpy.lib.format import open_memmap
from torch import Tensor

from saescope.activations import KeptRule, Moments, PointStatistics
from saescope.activations.stream import Batch, SteppedStream
from saescope.evaluation.seeding import TRAINING
from saescope.evaluation.synthetic import POINT, GroundTruth, SyntheticStream

HELD_OUT_ROWS, CHUNK = 2**16, 8192


def export(truth: GroundTruth, folder: Path, tokens: int, batch: int, seeds: list[int]) -> None:
    """Write what is not there yet; `export.json` comes last. Ends the program where the folder holds other rows."""
    described = {
        "points": {POINT: truth.directions.shape[1]},
        "train_rows": tokens,
        "held_out_rows": HELD_OUT_ROWS,
        "batch_size": batch,
        "passes": 1,
        "synthetic": truth.config.model_dump(mode="json"),
    }
    (folder / "order").mkdir(parents=True, exist_ok=True)
    if not (folder / "export.json").exists():
        _write_rows(truth, folder, tokens)
        (folder / "export.json").write_text(json.dumps(described, indent=1))
    elif json.loads((folder / "export.json").read_text()) != json.loads(json.dumps(described)):
        raise SystemExit(f"{folder} holds other rows; delete it or choose another folder")
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(tokens)[: tokens // batch * batch].reshape(-1, batch)
        np.save(folder / "order" / f"seed-{seed}.npy", order.astype(np.int32))


def _write_rows(truth: GroundTruth, folder: Path, tokens: int) -> None:
    target = folder / "points" / POINT
    target.mkdir(parents=True, exist_ok=True)
    rows = open_memmap(target / "train.npy", mode="w+", dtype=np.uint16, shape=(tokens, truth.directions.shape[1]))
    start = 0
    for sample in truth.samples(tokens, CHUNK, TRAINING, 0, 0):
        rows[start : start + len(sample.x)] = _bits(sample.x)
        start += len(sample.x)
    rows.flush()
    stream = SyntheticStream(truth, tokens=tokens, batch_size=1)
    np.save(target / "held_out.npy", _bits(stream.held_out_rows(HELD_OUT_ROWS)))


def _bits(rows: Tensor) -> np.ndarray:
    return rows.to(torch.bfloat16).view(torch.uint16).numpy()


class ExportedStream(SteppedStream):
    """The exported batches of one seed, bit for bit those that `exported.Batches` gives the other library."""

    points = (POINT,)
    kept_rule = KeptRule(frozenset(), {})

    def __init__(self, data: Exported, seed: int) -> None:
        self._data, self._rows = data, data.train(POINT)
        self.widths = {POINT: data.width(POINT)}
        self.trained_documents: list[str] = []
        n_rows, batch = int(data.described["train_rows"]), int(data.described["batch_size"])
        super().__init__(n_rows=n_rows, batch_size=batch, seed=seed, passes=1, described=str(data.folder))
        self._order = data.order(seed, self.n_steps)

    def statistics(self) -> dict[str, PointStatistics]:
        moments = Moments(self.widths[POINT])
        for part in self._rows.chunks():
            moments.add(part)
        return {POINT: moments.statistics()}

    def held_out_rows(self, max_rows: int) -> Tensor:
        return self._data.held_out(POINT).take(slice(0, max_rows))

    def provenance(self) -> dict[str, Any]:
        return {
            "model": {},
            "corpus": self._data.described,
            "sequences": {},
            "kept_rule": self.kept_rule.to_dict(),
            "trained_documents": [],
        }

    def _description(self) -> dict[str, Any]:
        return {"export": self._data.described, "seed": self.seed}

    def _batches(self, labelled: bool) -> Generator[Batch, None, None]:
        for step in range(self.step, self.n_steps):
            yield self._rows.take(self._order[step]), None
