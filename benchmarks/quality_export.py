"""A store's rows as plain files, so that a library without saescope trains on the very same batches.

    DIR/export.json                what it is: points, widths, rows, batch size
    DIR/points/POINT/train.npy     uint16 [rows, width], the bits of bfloat16, in the store's order
    DIR/points/POINT/held_out.npy  the same for rows of held-out documents
    DIR/order/seed-S.npy           int32 [steps, batch]: the training rows of every step, as `StoreStream` visits them

saescope itself trains from the store, through `StoreStream`; the order is read off that stream and checked against it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from saescope import Store, StoreStream


def export(store: Store, folder: Path, points: Sequence[str], seeds: Sequence[int], passes: int, batch: int) -> None:
    """Write everything above. Needs as much room as the points take in the store."""
    (folder / "order").mkdir(parents=True, exist_ok=True)
    for point in points:
        target = folder / "points" / point
        target.mkdir(parents=True, exist_ok=True)
        for split in ("train", "held_out"):
            _write_rows(store, point, split, target / f"{split}.npy")
    for seed in seeds:
        order = _order(store, points[0], seed, passes, batch)
        _check_order(store, folder, points[0], order, seed, passes)
        np.save(folder / "order" / f"seed-{seed}.npy", order)
    described = {
        "points": {point: store.widths[point] for point in points},
        "train_rows": sum(store.shard_rows("train")),
        "held_out_rows": sum(store.shard_rows("held_out")),
        "batch_size": batch,
        "passes": passes,
        "store": store.fingerprint,
    }
    (folder / "export.json").write_text(json.dumps(described, indent=1))


def _write_rows(store: Store, point: str, split: str, path: Path) -> None:
    shape = (sum(store.shard_rows(split)), store.widths[point])
    rows = open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
    start = 0
    for shard in store.shards():
        kept = shard.activations[point][shard.in_split(split)]
        rows[start : start + len(kept)] = kept.to(torch.bfloat16).view(torch.uint16).numpy()
        start += len(kept)
    rows.flush()


def _order(store: Store, point: str, seed: int, passes: int, batch: int) -> np.ndarray:
    """Which training row, counted in the store's order, stands where in each step's batch."""
    context = store.manifest.request.sequences["context"]
    places = []
    for shard in store.shards():
        kept = shard.in_split("train")
        places.append(shard.sequence[kept].long() * context + shard.position[kept].long())
    place = torch.cat(places)
    row_of = torch.full((int(place.max()) + 1,), -1, dtype=torch.int32)
    row_of[place] = torch.arange(len(place), dtype=torch.int32)
    stream = StoreStream(store, [point], batch_size=batch, seed=seed, passes=passes)
    steps = [row_of[labels.sequence.long() * context + labels.position.long()] for _, labels in stream.with_labels()]
    return torch.stack(steps).numpy()


def _check_order(store: Store, folder: Path, point: str, order: np.ndarray, seed: int, passes: int) -> None:
    """The exported rows in the exported order are the stream's own batches, bit for bit, at three steps."""
    if order.min() < 0:
        raise SystemExit("a batch holds a row that is not among the training rows")
    rows = np.load(folder / "points" / point / "train.npy", mmap_mode="r")
    stream = StoreStream(store, [point], batch_size=order.shape[1], seed=seed, passes=passes)
    for step in (0, len(order) // 2, len(order) - 1):
        if not np.array_equal(rows[order[step]], stream.batch(step).to(torch.bfloat16).view(torch.uint16).numpy()):
            raise SystemExit(f"step {step} of seed {seed} differs from the stream's batch")
