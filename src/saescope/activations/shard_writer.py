"""Rows gathered from forward batches into whole shards, with their counts, moments and sha256."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saescope.activations.batches import ForwardBatch
from saescope.activations.exclusions import KeptRule
from saescope.activations.location import Location
from saescope.activations.manifest import Counts, Request, ShardRecord
from saescope.activations.shards import ROW_TENSORS, SHARDS, SPLITS, TRAIN, encode, store_dtype, to_store
from saescope.activations.statistics import Moments


@dataclass
class _Gathered:
    activations: dict[str, list[Tensor]]
    moments: dict[str, Moments]
    labels: dict[str, list[np.ndarray]] = field(default_factory=lambda: {name: [] for name in ROW_TENSORS})
    batches: list[ForwardBatch] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=lambda: [Counts() for _ in SPLITS])
    n_sequences: int = 0


class ShardWriter:
    """`add` returns a record when the batch completed a shard; `finish` writes what is left as the last, shorter one."""

    def __init__(self, location: Location, request: Request, rule: KeptRule, first_shard: int):
        self._location = location
        self._request = request
        self._rule = rule
        self._dtype = store_dtype(request.store_dtype)
        self._fingerprint = request.fingerprint()
        self._index = first_shard
        self._gathered = self._nothing()

    def add(self, batch: ForwardBatch, activations: dict[str, Float[Tensor, "batch seq d"]]) -> ShardRecord | None:
        gathered = self._gathered
        device = next(iter(activations.values())).device
        excluded = self._rule.exclusions(batch.token_tensor(device), activations)
        kept = excluded.kept.cpu().numpy()
        sequence, position = np.nonzero(kept)
        is_train = torch.from_numpy(batch.splits[sequence] == TRAIN)
        for point, values in activations.items():
            rows = to_store(values[excluded.kept], self._dtype, point).cpu()
            gathered.activations[point].append(rows)
            gathered.moments[point].add(rows[is_train])
        gathered.labels["token"].append(batch.tokens[kept])
        gathered.labels["document"].append(batch.document[kept])
        gathered.labels["sequence"].append(batch.sequence_ids[sequence])
        gathered.labels["position"].append(position.astype(np.int32))
        gathered.batches.append(batch)
        gathered.n_sequences += len(batch.sequence_ids)
        special, any_sink = excluded.special.cpu().numpy(), excluded.any_sink.cpu().numpy()
        sink = {point: sinks.cpu().numpy() for point, sinks in excluded.sink.items()}
        for split in range(len(SPLITS)):
            of_split = batch.splits == split
            gathered.counts[split] += Counts(
                sequences=int(of_split.sum()),
                tokens=int((batch.tokens[of_split] >= 0).sum()),
                rows=int(kept[of_split].sum()),
                special=int(special[of_split].sum()),
                sink_any=int(any_sink[of_split].sum()),
                sink={point: int(sinks[of_split].sum()) for point, sinks in sink.items()},
            )
        return self.finish() if gathered.n_sequences >= self._request.shard_sequences else None

    def finish(self) -> ShardRecord | None:
        gathered = self._gathered
        if not gathered.batches:
            return None
        name = f"{SHARDS}/{self._index:05d}.safetensors"
        digest = self._location.write(name, encode(self._tensors(), self._metadata()))
        train, held_out = gathered.counts
        self._index += 1
        self._gathered = self._nothing()
        return ShardRecord(
            file=name,
            bytes=digest.bytes,
            sha256=digest.sha256,
            rows=train.rows + held_out.rows,
            train=train,
            held_out=held_out,
        )

    def _tensors(self) -> dict[str, Tensor | list[Tensor]]:
        gathered = self._gathered
        tensors: dict[str, Tensor | list[Tensor]] = dict(gathered.activations)
        for name, parts in gathered.labels.items():
            tensors[name] = torch.from_numpy(np.concatenate(parts).astype(np.int32))
        sequences = np.full((gathered.n_sequences, int(self._request.sequences["context"])), -1, dtype=np.int32)
        start = 0
        for batch in gathered.batches:
            n, longest = batch.tokens.shape
            sequences[start : start + n, :longest] = batch.tokens
            start += n
        tensors["sequences"] = torch.from_numpy(sequences)
        tensors["sequence_ids"] = torch.from_numpy(np.concatenate([batch.sequence_ids for batch in gathered.batches]))
        splits = np.concatenate([batch.splits for batch in gathered.batches])
        tensors["sequence_split"] = torch.from_numpy(splits.astype(np.uint8))
        for point, moments in gathered.moments.items():
            tensors[f"train_mean/{point}"] = torch.from_numpy(moments.mean)
            tensors[f"train_deviation/{point}"] = torch.from_numpy(moments.deviation)
        return tensors

    def _metadata(self) -> dict[str, str]:
        return {"format": "pt", "store": self._fingerprint, "shard": str(self._index)}

    def _nothing(self) -> _Gathered:
        points = self._request.points
        return _Gathered({point: [] for point in points}, {point: Moments(width) for point, width in points.items()})
