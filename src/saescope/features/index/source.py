"""Where codes come from: the rows of a store, or a corpus that the model is run on. Both give whole sequences in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from saescope.activations import KeptRule, Store
from saescope.activations.batches import BATCH_TOKENS, Excerpt, batch_sequences, in_batches
from saescope.activations.documents import StoredDocument
from saescope.coders import Codes, SparseCoder
from saescope.errors import FeatureIndexError
from saescope.features.passages import Passages
from saescope.features.store_pass import check_store, check_weights, pieces
from saescope.text import Corpus, SequenceOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from saescope.lm import LanguageModel

# Positions of a unit of work: what an interruption can lose.
_UNIT_POSITIONS = 65_536


@dataclass(frozen=True)
class Piece:
    """Whole sequences and the codes of their kept positions, row r of `codes` being the r-th kept one in reading order."""

    passages: Passages
    kept: Bool[Tensor, "batch seq"]
    codes: Codes


class Source(Protocol):
    """Pieces in a fixed order, in units that can be skipped when they have been done before."""

    @property
    def n_positions(self) -> int:
        """About how many positions there will be."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON, equal for two sources exactly when they give the same codes of the same coder."""
        ...

    def corpus(self) -> dict[str, Any]: ...

    def model(self) -> dict[str, Any]: ...

    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def units(self, first: int) -> Iterator[Iterator[Piece]]:
        """Units from number `first` on."""
        ...

    def documents(self) -> list[StoredDocument]:
        """The documents that positions name; complete when all units have been taken."""
        ...


class StoreSource:
    """The rows of a store, without running the model. CoderError where it lacks what the coder reads, or is of another model
    than the coder."""

    def __init__(self, coder: SparseCoder, store: Store) -> None:
        check_store(coder, store)
        self._coder, self._store = coder, store

    @property
    def n_positions(self) -> int:
        return sum(counts.tokens for counts in self._store.manifest.counts.values())

    def describe(self) -> dict[str, Any]:
        return {"store": self._store.fingerprint}

    def corpus(self) -> dict[str, Any]:
        return dict(self._store.manifest.request.corpus)

    def model(self) -> dict[str, Any]:
        return dict(self._store.manifest.request.model)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._store.tokenizer()

    def documents(self) -> list[StoredDocument]:
        return self._store.documents

    def units(self, first: int) -> Iterator[Iterator[Piece]]:
        for index, start, end in itertools.islice(self._ranges(), first, None):
            yield self._pieces(index, start, end)

    def _ranges(self) -> Iterator[tuple[int, int, int]]:
        for index, record in enumerate(self._store.manifest.shards):
            n = record.train.sequences + record.held_out.sequences
            tokens = record.train.tokens + record.held_out.tokens
            step = max(1, _UNIT_POSITIONS * n // max(1, tokens))
            for start in range(0, n, step):
                yield index, start, min(start + step, n)

    def _pieces(self, index: int, start: int, end: int) -> Iterator[Piece]:
        shard = self._store.shard(index, verify=True)
        for x, passages, kept in pieces(self._coder, shard, self._store.kept_rule.special_ids, start, end):
            yield Piece(passages, kept, self._coder.encode(x))


class TextSource:
    """About `tokens` tokens of a corpus, run through the model. Which positions count is the coder's own rule, or where it
    has none one measured on the first batch. CoderError for another model's coder."""

    def __init__(
        self,
        coder: SparseCoder,
        lm: LanguageModel,
        corpus: Corpus,
        *,
        tokens: int,
        options: SequenceOptions | None = None,
    ) -> None:
        known = {key: value for key, value in coder.metadata.sequences.items() if key in SequenceOptions.model_fields}
        self._coder, self._lm, self._corpus = coder, lm, corpus
        self._options = options or SequenceOptions(**known)
        self._tokens = tokens
        self._excerpt = Excerpt(lm, corpus, self._options, tokens)
        self._rule = KeptRule.from_dict(coder.metadata.kept_rule) if coder.metadata.kept_rule else None
        check_weights(coder, lm.identity(), "the model given")
        for part in coder.reads:
            if lm.width(part.point) != part.width:
                raise FeatureIndexError(
                    f"coder {coder.metadata.name or 'given'} reads {part.point} of width {part.width}, {lm.spec} has "
                    f"{lm.width(part.point)} there; give the model it was trained on"
                )

    @property
    def n_positions(self) -> int:
        return self._tokens

    def describe(self) -> dict[str, Any]:
        model = {key: value for key, value in self.model().items() if key not in ("spec", "name")}
        sequences = self._options.model_dump()
        return {"model": model, "corpus": self.corpus(), "sequences": sequences, "tokens": self._tokens}

    def corpus(self) -> dict[str, Any]:
        return self._corpus.identity()

    def model(self) -> dict[str, Any]:
        return self._lm.identity()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._lm.tokenizer

    def documents(self) -> list[StoredDocument]:
        return self._excerpt.documents

    def units(self, first: int) -> Iterator[Iterator[Piece]]:
        # An excerpt is read once, and an interrupted build may have begun the one before.
        self._excerpt = Excerpt(self._lm, self._corpus, self._options, self._tokens)
        sequences = iter(self._excerpt)
        size = batch_sequences(BATCH_TOKENS, self._options)
        per_unit = max(1, _UNIT_POSITIONS // (size * self._options.context)) * size
        skipped = list(itertools.islice(sequences, first * per_unit))
        if self._rule is None and skipped:
            self._measure(skipped[:size])
        while group := list(itertools.islice(sequences, per_unit)):
            if self._rule is None:
                self._measure(group[:size])
            yield self._pieces(group, size)

    def _measure(self, group: list[Any]) -> None:
        batch = next(in_batches(iter(group), len(group)))
        points = [part.point for part in self._coder.reads]
        activations = batch.run(self._lm, points)
        tokens = batch.token_tensor(activations[points[0]].device)
        self._rule = KeptRule.measured([(tokens, activations)], self._lm.special_ids)

    def _pieces(self, group: list[Any], size: int) -> Iterator[Piece]:
        assert self._rule is not None
        reads = [part.point for part in self._coder.reads]
        points = list(dict.fromkeys([*reads, *self._rule.points]))
        for batch in in_batches(iter(group), size):
            activations = batch.run(self._lm, points)
            tokens = batch.token_tensor(activations[reads[0]].device)
            kept = self._rule.kept(tokens, activations)
            x = torch.cat([activations[point][kept] for point in reads], 1)
            passages = Passages(
                torch.from_numpy(batch.tokens).long(),
                torch.from_numpy(batch.document).long(),
                torch.from_numpy(batch.sequence_ids).long(),
            )
            kept = kept.cpu() & (passages.document >= 0)
            # Tokens between documents are special, so the rule has left them out already.
            yield Piece(passages, kept, self._coder.encode(x))
