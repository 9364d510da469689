"""The n strongest contexts of every feature, kept up to date as codes stream by.

All features at once: a batch's entries are sorted, the strongest of each (latent, sequence) become candidates, and the
candidates that beat a latent's weakest kept context are merged into running [d_sae, n] tables. Memory is the tables,
4·d_sae·n·(2·window + 1)·2 bytes and little else, however much text goes by.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.coders import Codes
from saescope.errors import CoderError
from saescope.features.passages import Passages

WINDOW = 16


@dataclass(frozen=True)
class Context:
    """One feature in one place: tokens around its strongest one, with the feature's activation at each (0 = silent)."""

    tokens: list[int]
    activations: list[float]
    peak: int
    document: int
    sequence: int
    position: int

    @property
    def value(self) -> float:
        return self.activations[self.peak]


@dataclass(frozen=True)
class ContextTable:
    """What a pass over text found, for all features.

    value, document, sequence, position [d_sae, n]: each feature's n strongest contexts, strongest first; value 0 and the rest
    -1 where it has fewer. tokens, activations [d_sae, n, 2·window + 1]: the window, the peak in the middle; tokens -1
    beyond the sequence's or the document's end. count [d_sae]: tokens on which the feature fired; total: the sum of its
    activations; n_tokens: of the pass.
    """

    value: Float[Tensor, "d_sae n"]
    document: Int[Tensor, "d_sae n"]
    sequence: Int[Tensor, "d_sae n"]
    position: Int[Tensor, "d_sae n"]
    tokens: Int[Tensor, "d_sae n window"]
    activations: Float[Tensor, "d_sae n window"]
    count: Int[Tensor, "d_sae"]
    total: Float[Tensor, "d_sae"]
    n_tokens: int

    @property
    def density(self) -> Float[Tensor, "d_sae"]:
        return self.count.double() / max(self.n_tokens, 1)

    @property
    def maximum(self) -> Float[Tensor, "d_sae"]:
        """The largest activation of each feature; 0 where it never fired."""
        return self.value[:, 0]

    @property
    def mean(self) -> Float[Tensor, "d_sae"]:
        """The mean activation over the tokens on which the feature fired; 0 where it never did."""
        return self.total / self.count.clamp(min=1)

    def contexts(self, latent: int) -> list[Context]:
        """A feature's contexts, strongest first."""
        found = []
        middle = self.tokens.shape[2] // 2
        for rank in range(int((self.value[latent] > 0).sum())):
            tokens = self.tokens[latent, rank]
            inside = tokens >= 0
            first = int(inside.nonzero()[0])
            found.append(
                Context(
                    tokens[inside].tolist(),
                    self.activations[latent, rank][inside].tolist(),
                    middle - first,
                    int(self.document[latent, rank]),
                    int(self.sequence[latent, rank]),
                    int(self.position[latent, rank]),
                )
            )
        return found


class FeatureContexts:
    """Takes the codes of batch after batch; `table()` gives what they amount to.

    A sequence counts once for a feature, by its strongest token (the first of equals), so contexts are distinct. Among equal
    values the one seen first stays ahead. Every sequence must come whole, in one batch.
    """

    def __init__(self, d_sae: int, n: int = 10, window: int = WINDOW) -> None:
        self.d_sae, self.n, self.window = d_sae, n, window
        width = 2 * window + 1
        self.n_tokens = 0
        self.count = torch.zeros(d_sae, dtype=torch.int64)
        self.total = torch.zeros(d_sae, dtype=torch.float64)
        self.value = torch.zeros(d_sae, n)
        self.document = torch.full((d_sae, n), -1, dtype=torch.int32)
        self.sequence = torch.full((d_sae, n), -1, dtype=torch.int64)
        self.position = torch.full((d_sae, n), -1, dtype=torch.int32)
        self.tokens = torch.full((d_sae, n, width), -1, dtype=torch.int32)
        self.activations = torch.zeros(d_sae, n, width)

    def table(self) -> ContextTable:
        return ContextTable(
            self.value,
            self.document,
            self.sequence,
            self.position,
            self.tokens,
            self.activations,
            self.count,
            self.total,
            self.n_tokens,
        )

    @torch.no_grad()
    def update(self, codes: Codes, passages: Passages, kept: Bool[Tensor, "batch seq"]) -> None:
        """Add a batch. Row r of `codes` is the r-th kept position of `passages`, in reading order."""
        batch = _Batch(codes, passages, kept.cpu())
        self.n_tokens += codes.n_tokens
        self.count += torch.bincount(batch.latent, minlength=self.d_sae)
        self.total.index_add_(0, batch.latent, batch.value.double())
        entry = batch.strongest_of_each_sequence()
        entry = entry[batch.value[entry] > self.value[batch.latent[entry], -1]]
        if entry.numel() == 0:
            return
        # Strongest first within a latent; `rank` numbers them, and only n of them can stay.
        entry = entry[torch.argsort(batch.value[entry], descending=True, stable=True)]
        entry = entry[torch.argsort(batch.latent[entry], stable=True)]
        rank = _rank_within(batch.latent[entry])
        entry, rank = entry[rank < self.n], rank[rank < self.n]
        self._merge(batch, entry, rank)

    def _merge(self, batch: _Batch, entry: Int[Tensor, "m"], rank: Int[Tensor, "m"]) -> None:
        latents, row = torch.unique_consecutive(batch.latent[entry], return_inverse=True)
        where = (row, rank)

        def merged(kept: Tensor, new: Tensor) -> Tensor:
            """[latents, n] of the running table beside [latents, n] of the batch, in the order the values decide."""
            added = kept.new_zeros(latents.numel(), *kept.shape[1:])
            added[where] = new.to(kept.dtype)
            both = torch.cat([kept[latents], added], 1)
            return both[torch.arange(latents.numel())[:, None], order]

        values = torch.zeros(latents.numel(), self.n)
        values[where] = batch.value[entry]
        both = torch.cat([self.value[latents], values], 1)
        order = both.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        tokens, activations = batch.windows(entry, self.window)
        fields = {
            "document": batch.document[entry],
            "sequence": batch.passages.sequence[batch.row_sequence[batch.row[entry]]],
            "position": batch.row_position[batch.row[entry]],
            "tokens": tokens,
            "activations": activations,
        }
        for name, new in fields.items():
            table: Tensor = getattr(self, name)
            table[latents] = merged(table, new)
        self.value[latents] = both.gather(1, order)
        # Places that neither side fills were copied from zeros.
        empty = self.value[latents] == 0
        for name in ("document", "sequence", "position", "tokens"):
            table = getattr(self, name)
            table[latents] = table[latents].masked_fill(empty.view(*empty.shape, *[1] * (table.ndim - 2)), -1)


class _Batch:
    """A batch's firing entries, in reading order, on the CPU: latent, value and row of each."""

    def __init__(self, codes: Codes, passages: Passages, kept: Bool[Tensor, "batch seq"]) -> None:
        if codes.n_tokens != int(kept.sum()):
            raise CoderError(f"codes of {codes.n_tokens} tokens do not belong to {int(kept.sum())} kept positions")
        fires = codes.values > 0
        self.codes, self.passages = codes, passages
        self.latent = codes.indices[fires].cpu()
        self.value = codes.values.detach()[fires].float().cpu()
        self.row = codes.rows()[fires].cpu()
        self.row_sequence, self.row_position = kept.nonzero(as_tuple=True)
        self.row_at = torch.full(kept.shape, -1, dtype=torch.int64)
        self.row_at[kept] = torch.arange(self.row_sequence.numel())

    @property
    def document(self) -> Int[Tensor, "entries"]:
        return self.passages.document[self.row_sequence, self.row_position][self.row]

    def strongest_of_each_sequence(self) -> Int[Tensor, "m"]:
        """The entry with the largest value of each (latent, sequence), earliest of equals."""
        key = self.latent * self.passages.tokens.shape[0] + self.row_sequence[self.row]
        order = torch.argsort(self.value, descending=True, stable=True)
        order = order[torch.argsort(key[order], stable=True)]
        new = torch.ones(order.numel(), dtype=torch.bool)
        new[1:] = key[order][1:] != key[order][:-1]
        # Back to reading order, so that among equal values the earlier sequence comes first.
        return order[new].sort().values

    def windows(self, entry: Int[Tensor, "m"], window: int) -> tuple[Int[Tensor, "m w"], Float[Tensor, "m w"]]:
        """Tokens around each entry's position (-1 beyond its sequence or document) and its latent's values there."""
        sequence, position = self.row_sequence[self.row[entry]], self.row_position[self.row[entry]]
        context = self.passages.tokens.shape[1]
        at = position[:, None] + torch.arange(-window, window + 1)
        within = (at >= 0) & (at < context)
        at = at.clamp(0, context - 1)
        here = sequence[:, None]
        own = self.document[entry][:, None]
        within &= (self.passages.document[here, at] == own) & (self.passages.tokens[here, at] >= 0)
        # The same document may go on beyond a gap (a special token written in its text); that is another context.
        within = _connected(within, window)
        tokens = self.passages.tokens[here, at].masked_fill(~within, -1)
        return tokens, self._values_at(self.row_at[here, at].masked_fill(~within, -1), self.latent[entry])

    def _values_at(self, row: Int[Tensor, "m w"], latent: Int[Tensor, "m"]) -> Float[Tensor, "m w"]:
        """The value of `latent[i]` at rows `row[i]`; 0 where the row is -1 or the latent is silent."""
        n_latents = self.codes.d_sae
        wanted = row * n_latents + latent[:, None]
        found = torch.searchsorted(self._keys, wanted.clamp(min=0)).clamp(max=self._keys.numel() - 1)
        hit = (self._keys[found] == wanted) & (row >= 0)
        return torch.where(hit, self.value[found], 0.0)

    @cached_property
    def _keys(self) -> Int[Tensor, "entries"]:
        # Ascending, because entries are in row order and a row's latents ascend.
        return self.row * self.codes.d_sae + self.latent


def _connected(within: Bool[Tensor, "m w"], middle: int) -> Bool[Tensor, "m w"]:
    """The part of each row that reaches the middle without a gap."""
    right = within[:, middle:].long().cumprod(1).bool()
    left = within[:, : middle + 1].flip(1).long().cumprod(1).bool().flip(1)
    return torch.cat([left[:, :-1], right], 1)


def _rank_within(group: Int[Tensor, "m"]) -> Int[Tensor, "m"]:
    """0, 1, 2, … within each run of equal entries."""
    index = torch.arange(group.numel())
    first = torch.ones_like(group, dtype=torch.bool)
    first[1:] = group[1:] != group[:-1]
    return index - torch.where(first, index, 0).cummax(0).values
