"""One pass over a store: the strongest contexts of every feature of a coder, without running the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.activations import Shard, Store
from saescope.coders import SparseCoder
from saescope.errors import CoderError
from saescope.features.contexts import WINDOW, ContextTable, FeatureContexts
from saescope.features.passages import Passages
from saescope.lm.identity import weights_differ

# Rows encoded at once; a batch is whole sequences.
_ROWS = 8192


@torch.no_grad()
def top_contexts(
    coder: SparseCoder,
    store: Store,
    n: int = 10,
    *,
    window: int = WINDOW,
    progress: Callable[[int, int], None] | None = None,
) -> ContextTable:
    """The `n` strongest contexts of every feature over all rows of `store`, at most one a sequence, with counts.

    CoderError when the store lacks a point the coder reads, has it in another width, or is of another model.
    `progress(done, total)` counts rows. Documents in the result index `store.documents`.
    """
    check_store(coder, store)
    found = FeatureContexts(coder.d_sae, n, window)
    done = 0
    for shard in store.shards():
        for x, passages, kept in pieces(coder, shard, store.kept_rule.special_ids):
            if x.shape[0]:
                found.update(coder.encode(x), passages, kept)
            done += x.shape[0]
            if progress is not None:
                progress(done, store.n_rows)
    return found.table()


def check_store(coder: SparseCoder, store: Store) -> None:
    """CoderError unless the store holds what the coder reads, of the model it was trained on as far as it says."""
    check_weights(coder, store.manifest.request.model, f"the store {store.path}")
    for part in coder.reads:
        if store.widths.get(part.point) != part.width:
            held = ", ".join(f"{point} ({width})" for point, width in store.widths.items())
            raise CoderError(
                f"coder {coder.metadata.name or 'given'} reads {part.point} of width {part.width}, "
                f"the store {store.path} holds {held}; give the store it was trained on"
            )


def check_weights(coder: SparseCoder, model: Mapping[str, Any], holder: str) -> None:
    """CoderError where a coder records a model of other weights than `model`, a `LanguageModel.identity()`. holder: whose
    it is, for the message."""
    trained = coder.metadata.model
    if weights_differ(trained.get("weights"), model.get("weights")):
        raise CoderError(
            f"coder {coder.metadata.name or 'given'} was trained on {trained.get('spec') or trained.get('name')}, "
            f"{holder} is of {model.get('spec') or model.get('name')}, whose weights are others; give its own model's"
        )


def pieces(
    coder: SparseCoder, shard: Shard, special_ids: frozenset[int], start: int = 0, end: int | None = None
) -> Iterator[tuple[Float[Tensor, "rows d_in"], Passages, Bool[Tensor, "batch seq"]]]:
    """The rows of a shard's sequences `start:end` in groups of whole sequences, those without a row among them."""
    if not len(shard.sequence_ids):
        return
    local = shard.sequence.long() - int(shard.sequence_ids[0])
    n_sequences, context = shard.sequences.shape
    step = max(1, _ROWS // context)
    end = n_sequences if end is None else min(end, n_sequences)
    for first in range(start, end, step):
        last = min(first + step, end)
        bounds = torch.searchsorted(local, torch.tensor([first, last]))
        rows = slice(int(bounds[0]), int(bounds[1]))
        place = (local[rows] - first, shard.position[rows].long())
        tokens = shard.sequences[first:last].long()
        document = torch.full_like(tokens, -1)
        document[place] = shard.document[rows].long()
        kept = torch.zeros_like(tokens, dtype=torch.bool)
        kept[place] = True
        passages = Passages(tokens, _filled(document, tokens, special_ids), shard.sequence_ids[first:last].long())
        parts = [shard.activations[part.point][rows] for part in coder.reads]
        yield torch.cat(parts, 1), passages, kept


def _filled(
    document: Int[Tensor, "batch seq"], tokens: Int[Tensor, "batch seq"], special_ids: frozenset[int]
) -> Int[Tensor, "batch seq"]:
    """A store names the document of its rows only. Other ordinary tokens belong where the next row does, or, at a
    sequence's end, where the one before does; special tokens and padding to none."""
    context = tokens.shape[1]
    index = torch.arange(context).expand_as(document)
    known = document >= 0
    following = torch.where(known, index, context).flip(1).cummin(1).values.flip(1)
    before = torch.where(known, index, -1).cummax(1).values
    source = torch.where(following < context, following, before)
    filled = document.gather(1, source.clamp(min=0)).masked_fill(source < 0, -1)
    special = torch.isin(tokens, torch.tensor(sorted(special_ids), dtype=tokens.dtype)) | (tokens < 0)
    return filled.masked_fill(special, -1)
