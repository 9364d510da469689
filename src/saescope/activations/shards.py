"""One shard: a safetensors file, written without a copy in memory and read through a memory map.

The writer is our own because the bytes must depend on nothing but the content: the safetensors package orders metadata by
hash and wants every tensor whole. What it writes is ordinary safetensors: header length (u64), JSON header, buffers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saescope.errors import StoreError, UsageError

SHARDS = "shards"
STORE_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_ALIGNMENT = 64

ROW_TENSORS = ("token", "document", "sequence", "position")
"""int32 [n], one entry per kept row: token id, index into documents.parquet, sequence id, 0-based position in it."""

TRAIN, HELD_OUT = 0, 1
SPLITS = ("train", "held_out")
"""`sequence_split` holds an index into this."""


def store_dtype(name: str) -> torch.dtype:
    if name not in STORE_DTYPES:
        raise UsageError(f"unknown store dtype {name!r}: choose from {', '.join(STORE_DTYPES)}")
    return STORE_DTYPES[name]


def to_store(values: Tensor, dtype: torch.dtype, point: str) -> Tensor:
    """Activations in the dtype in which rows are kept. StoreError where float16 cannot hold one."""
    kept = values.to(dtype)
    if dtype == torch.float16 and not bool(kept.isfinite().all()):
        raise StoreError(f"an activation at {point} is beyond float16; take bfloat16 or float32 (--store-dtype)")
    return kept


def encode(
    tensors: Mapping[str, Tensor | Sequence[Tensor]], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The file's bytes, piece by piece; a sequence of tensors is written as their concatenation along axis 0.

    Equal content gives equal bytes. Wider dtypes come first, so that every buffer is aligned to its item size.
    """
    pieces = {name: [value] if isinstance(value, Tensor) else list(value) for name, value in tensors.items()}
    order = sorted(pieces, key=lambda name: (-pieces[name][0].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name in order:
        first = pieces[name][0]
        shape = [sum(piece.shape[0] for piece in pieces[name]), *first.shape[1:]]
        end = offset + math.prod(shape) * first.element_size()
        header[name] = {"dtype": _DTYPE_NAMES[first.dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        for piece in pieces[name]:
            yield piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class Shard:
    """The tensors of one shard, memory-mapped: indexing reads only the pages it touches.

    `sequences` holds all token ids of each sequence, the excluded ones too, -1 beyond its end; `sequence_ids` numbers them
    over the whole store and `sequence_split` gives each one's split (0 train, 1 held out).
    """

    index: int
    activations: dict[str, Float[Tensor, "n d"]]
    token: Int[Tensor, "n"]
    document: Int[Tensor, "n"]
    sequence: Int[Tensor, "n"]
    position: Int[Tensor, "n"]
    sequences: Int[Tensor, "n_seq context"]
    sequence_ids: Int[Tensor, "n_seq"]
    sequence_split: Int[Tensor, "n_seq"]

    @property
    def n_rows(self) -> int:
        return int(self.token.shape[0])

    def column(self, name: str) -> Tensor:
        """A point's activations or one of `ROW_TENSORS`."""
        values: Tensor = self.activations[name] if name in self.activations else getattr(self, name)
        return values

    def in_split(self, split: str) -> Bool[Tensor, "n"]:
        """Which rows are of that split."""
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
        if not len(self.sequence_ids):
            return torch.zeros(0, dtype=torch.bool)
        local = self.sequence.long() - int(self.sequence_ids[0])
        return self.sequence_split.long()[local] == SPLITS.index(split)


def read_shard(path: Path, name: str, index: int, widths: Mapping[str, int], n_rows: int, fingerprint: str) -> Shard:
    """Opens a shard and checks that it is that one: belonging, order, names, shapes. StoreError names it otherwise.

    The content itself is vouched for by the manifest's sha256 only (`Store.verify`).
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("store") != fingerprint:
                raise StoreError(f"foreign shard {name}: it was harvested for another store; harvest again")
            if metadata.get("shard") != str(index):
                raise StoreError(
                    f"misplaced shard {name}: it is shard {metadata.get('shard')} of this store; put it back or harvest again"
                )
            rows = {key: file.get_tensor(key) for key in ROW_TENSORS}
            sequences = {key: file.get_tensor(key) for key in ("sequences", "sequence_ids", "sequence_split")}
            activations = {point: file.get_tensor(point) for point in widths}
    except StoreError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise StoreError(f"damaged shard {name}: {detail}; remove the store and harvest again") from error
    shapes_agree = all(len(values) == n_rows for values in rows.values()) and all(
        tuple(activations[point].shape) == (n_rows, width) for point, width in widths.items()
    )
    if not shapes_agree:
        raise StoreError(
            f"damaged shard {name}: its shapes differ from the manifest's; remove the store and harvest again"
        )
    return Shard(index, activations, **rows, **sequences)


def read_moments(file: BinaryIO, name: str, points: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and summed squared deviation of a shard's training rows, by point, without reading the rows."""
    try:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

        def read(key: str) -> np.ndarray:
            start, end = header[key]["data_offsets"]
            file.seek(8 + length + start)
            return np.frombuffer(file.read(end - start), dtype="<f8")

        return {point: (read(f"train_mean/{point}"), read(f"train_deviation/{point}")) for point in points}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"damaged shard {name}: unreadable header; remove the store and harvest again") from error
