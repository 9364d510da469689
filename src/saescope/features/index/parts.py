"""Token-major parts: the codes of one unit of work, appended part by part, and read again when the index is put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64, UInt8, UInt32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from saescope.errors import FeatureIndexError
from saescope.features.index.source import Piece
from saescope.whole_files import write_whole

PARTS = "parts"
_FIELDS = ("tokens", "document", "kept", "lengths", "counts", "features", "values")


@dataclass(frozen=True)
class Part:
    """Sequences laid end to end.

    tokens, document, kept [positions]; lengths [sequences]; counts [positions]: active latents of each position, 0 where it
    is not kept; features, values [nonzeros]: these latents, ascending within a position. negative: codes left out.
    """

    tokens: Int32[np.ndarray, "positions"]
    document: Int32[np.ndarray, "positions"]
    kept: UInt8[np.ndarray, "positions"]
    lengths: Int64[np.ndarray, "sequences"]
    counts: Int32[np.ndarray, "positions"]
    features: UInt32[np.ndarray, "nonzeros"]
    values: Float32[np.ndarray, "nonzeros"]
    negative: int = 0

    @staticmethod
    def of(pieces: Iterable[Piece]) -> Part:
        """The pieces laid end to end. FeatureIndexError where a code is NaN or infinite."""
        found = [_flat(piece) for piece in pieces]
        columns = {name: np.concatenate([getattr(part, name) for part in found]) for name in _FIELDS}
        return Part(**columns, negative=sum(part.negative for part in found))


def _flat(piece: Piece) -> Part:
    if not torch.isfinite(piece.codes.values).all():
        raise FeatureIndexError("a code is NaN or infinite; look at the coder's weights, or run the model in float32")
    real = piece.passages.real
    counts = torch.zeros(real.shape, dtype=torch.int32)
    fires = piece.codes.values > 0
    rows = piece.codes.rows()[fires]
    counts[piece.kept] = torch.bincount(rows, minlength=piece.codes.n_tokens).int().cpu()
    return Part(
        piece.passages.tokens[real].int().numpy(),
        piece.passages.document[real].int().numpy(),
        piece.kept[real].numpy().astype(np.uint8),
        real.sum(1).numpy(),
        counts[real].numpy(),
        piece.codes.indices[fires].cpu().numpy().astype(np.uint32),
        piece.codes.values.detach()[fires].float().cpu().numpy(),
        int((piece.codes.values < 0).sum()),
    )


def part_path(folder: Path, number: int) -> Path:
    return folder / PARTS / f"{number:05d}.safetensors"


def write_part(folder: Path, number: int, part: Part, fingerprint: str) -> None:
    """Write a part whole. `fingerprint`: of what was asked for, so that a part of another build is recognised."""
    path = part_path(folder, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"index": fingerprint, "part": str(number), "negative": str(part.negative)}
    write_whole(path, save({name: getattr(part, name) for name in _FIELDS}, facts))


def read_part(folder: Path, number: int, fingerprint: str) -> Part | None:
    """A part of this build, or None where there is none that is whole."""
    try:
        with safe_open(str(part_path(folder, number)), framework="np") as file:
            facts = file.metadata() or {}
            if (facts.get("index"), facts.get("part")) != (fingerprint, str(number)):
                return None
            columns = {name: file.get_tensor(name) for name in _FIELDS}
            return Part(**columns, negative=int(facts["negative"]))
    except (OSError, SafetensorError, ValueError, KeyError):
        return None


def parts_done(folder: Path, fingerprint: str) -> int:
    """How many parts, from the first on, are there."""
    number = 0
    while part_path(folder, number).exists() and read_part(folder, number, fingerprint) is not None:
        number += 1
    return number


def positions_of(folder: Path, number: int) -> int:
    """How many positions a whole part has."""
    with safe_open(str(part_path(folder, number)), framework="np") as file:
        return int(file.get_slice("tokens").get_shape()[0])
