"""Our own folders: SAELens's, and beside them `saescope.json` with what SAELens has no place for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.coders.formats import sae_lens
from saescope.coders.formats.reading import Reading
from saescope.coders.formats.source import Source
from saescope.coders.metadata import CoderMetadata, Slice
from saescope.coders.token_norm import TokenNorm
from saescope.errors import CoderError, first_mistake

OURS, REFERENCE = "saescope.json", "reference.safetensors"


def detect(source: Source) -> bool:
    return source.has(OURS) and (source.has(sae_lens.CONFIG) or source.has(sae_lens.WEIGHTS))


def read(reading: Reading) -> SparseCoder:
    ours = reading.source.json(OURS)
    try:
        reading.metadata = CoderMetadata.model_validate(ours.get("metadata", {}))
        reads, writes = ([Slice.model_validate(part) for part in ours[key]] for key in ("reads", "writes"))
        token_norm = TokenNorm(ours["token_norm"]) if ours.get("token_norm") else None
    except (ValidationError, KeyError, TypeError) as error:
        raise CoderError(f"{reading.source.label(OURS)} is damaged: {_first(error)}; restore it or delete it") from None
    parts, _ = sae_lens.parts_of(reading, reading.source.json(sae_lens.CONFIG))
    for name, slices, width in (("reads", reads, parts.d_in), ("writes", writes, parts.W_dec.shape[1])):
        if sum(part.width for part in slices) != width:
            raise CoderError(
                f"{reading.source.label(OURS)} {name} {sum(part.width for part in slices)} dimensions, the weights have "
                f"{width}; it is another coder's"
            )
    if reading.given.reads is not None or reading.given.writes is not None:
        reads, writes = _renamed(reading, reads, writes)
    return reading.assemble(parts, reads, writes, token_norm)


def write(coder: SparseCoder, folder: Path) -> None:
    """Into an empty folder."""
    sae_lens.write_files(coder, folder)
    (folder / OURS).write_text(json.dumps(_entries(coder), indent=2) + "\n")


def write_reference(reference: dict[str, Tensor], folder: Path) -> None:
    """Tensors measured in training beside the coder's files."""
    save_file({name: value.cpu().contiguous() for name, value in reference.items()}, folder / REFERENCE)


def same_training(coder: SparseCoder, source: Source) -> bool:
    """Whether a coder in files is of this one's points, model and text, on which alone reference tensors depend."""
    if not source.has(OURS):
        return False
    mine, theirs = json.loads(json.dumps(_entries(coder))), source.json(OURS)
    about = [entries.get("metadata") or {} for entries in (mine, theirs)]
    same = [[one.get(key) for key in ("model", "corpus", "sequences", "kept_rule")] for one in about]
    return same[0] == same[1] and all(mine[key] == theirs.get(key) for key in ("reads", "writes"))


def _entries(coder: SparseCoder) -> dict[str, Any]:
    """What `saescope.json` holds."""
    norm = {} if coder.token_norm is None else {"token_norm": coder.token_norm.kind}
    return {
        "reads": [part.model_dump() for part in coder.reads],
        "writes": [part.model_dump() for part in coder.writes],
        **norm,
        "metadata": coder.metadata.model_dump(),
    }


def _renamed(reading: Reading, reads: list[Slice], writes: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """The user's word for the points of a coder of one point each."""
    if len(reads) > 1 or len(writes) > 1:
        reading.refuse("reads or writes several hook points, which reads= and writes= cannot rename")
    read = Slice(point=reading.read_point(reads[0].point).point, width=reads[0].width)
    if reads == writes and reading.given.writes is None:
        return [read], [read]
    return [read], [Slice(point=reading.write_point(writes[0].point).point, width=writes[0].width)]


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return first_mistake(error)
