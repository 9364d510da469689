"""Token sequences up to a number of tokens, grouped into the forward batches of a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from saescope.activations.documents import StoredDocument, stored
from saescope.activations.exclusions import REFERENCE_TOKENS
from saescope.activations.shards import HELD_OUT, TRAIN
from saescope.errors import StoreError, UsageError
from saescope.text import Sequencer

if TYPE_CHECKING:
    from saescope.lm import Expression, LanguageModel
    from saescope.text import Corpus, SequenceOptions, TokenSequence

BATCH_TOKENS = 4096


class Excerpt:
    """The first sequences of a corpus, as many as it takes to reach `tokens` tokens; the last one is whole.

    One pass: `__iter__` yields (sequence id, sequence) once, or raises TextError when the corpus gives none. `n_tokens`,
    `n_sequences`, `documents` and `corpus_ended` describe what has been yielded so far.
    """

    def __init__(self, lm: LanguageModel, corpus: Corpus, options: SequenceOptions, tokens: int):
        if tokens <= 0:
            raise UsageError(f"tokens must be positive, got {tokens}")
        self.tokens = tokens
        self.n_tokens = 0
        self.n_sequences = 0
        self.corpus_ended = False
        self._sequencer = Sequencer(corpus, lm.tokenizer, options)
        self._harvested = np.zeros(0, dtype=np.int64)

    def __iter__(self) -> Iterator[tuple[int, TokenSequence]]:
        sequences = iter(self._sequencer)
        while self.n_tokens < self.tokens:
            sequence = next(sequences, None)
            if sequence is None:
                self.corpus_ended = True
                break
            self._count(sequence)
            yield self.n_sequences - 1, sequence

    @property
    def documents(self) -> list[StoredDocument]:
        records = list(self._sequencer.documents)
        return stored(records, self._grown(len(records))[: len(records)].tolist())

    def _count(self, sequence: TokenSequence) -> None:
        self.n_sequences += 1
        self.n_tokens += len(sequence.tokens)
        ids, counts = np.unique(sequence.document[sequence.document >= 0], return_counts=True)
        if len(ids):
            self._harvested = self._grown(int(ids[-1]) + 1)
            self._harvested[ids] += counts

    def _grown(self, size: int) -> np.ndarray:
        missing = size - len(self._harvested)
        if missing <= 0:
            return self._harvested
        return np.concatenate([self._harvested, np.zeros(max(missing, len(self._harvested)), dtype=np.int64)])


@dataclass(frozen=True)
class ForwardBatch:
    """Sequences of one model call, right-padded: -1 in `tokens` (and in `document`, as for inserted special tokens)."""

    tokens: Int32[np.ndarray, "batch seq"]
    document: Int32[np.ndarray, "batch seq"]
    sequence_ids: Int32[np.ndarray, "batch"]
    splits: Int32[np.ndarray, "batch"]

    @classmethod
    def of(cls, numbered: Sequence[tuple[int, TokenSequence]]) -> ForwardBatch:
        longest = max(len(sequence.tokens) for _, sequence in numbered)
        tokens = np.full((len(numbered), longest), -1, dtype=np.int32)
        document = np.full_like(tokens, -1)
        for row, (_, sequence) in enumerate(numbered):
            tokens[row, : len(sequence.tokens)] = sequence.tokens
            document[row, : len(sequence.tokens)] = sequence.document
        ids = np.array([number for number, _ in numbered], dtype=np.int32)
        splits = np.array([TRAIN if s.split == "train" else HELD_OUT for _, s in numbered], dtype=np.int32)
        return cls(tokens, document, ids, splits)

    @property
    def n_tokens(self) -> int:
        return int((self.tokens >= 0).sum())

    def n_ordinary(self, special_ids: Collection[int]) -> int:
        """How many tokens are neither padding nor special."""
        special = np.fromiter(special_ids, dtype=np.int64, count=len(special_ids))
        return int(((self.tokens >= 0) & ~np.isin(self.tokens, special)).sum())

    def beginning(self, n_tokens: int) -> ForwardBatch:
        """The first tokens of the first sequence, enough to warm the model up."""
        one = slice(0, 1)
        first = slice(0, n_tokens)
        return ForwardBatch(
            self.tokens[one, first], self.document[one, first], self.sequence_ids[one], self.splits[one]
        )

    def run(self, lm: LanguageModel, points: Sequence[str]) -> dict[str, Float[Tensor, "batch seq d"]]:
        """The model's activations here; StoreError naming point, sequence and position where one is not finite."""
        tokens = torch.from_numpy(self.tokens).to(lm.device).long()
        mask = None
        if bool((self.tokens < 0).any()):
            mask = (tokens >= 0).long()
            tokens = tokens.clamp(min=0)
        activations = lm.run(tokens, capture=list(points), attention_mask=mask).activations
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        for point in points:
            self._check_finite(point, activations[point], real)
        return {point: activations[point] for point in points}

    def token_tensor(self, device: torch.device) -> Int[Tensor, "batch seq"]:
        return torch.from_numpy(self.tokens).to(device)

    def _check_finite(self, point: str, values: Float[Tensor, "batch seq d"], real: Bool[Tensor, "batch seq"]) -> None:
        # A sum is finite only when every term is, and far cheaper than a mask of every element.
        if bool(values.sum(dtype=torch.float32).isfinite()):
            return
        broken = (~values.isfinite().all(dim=-1) & real).nonzero()
        if len(broken):
            row, position = broken[0].tolist()
            raise StoreError(
                f"activation at {point}, sequence {int(self.sequence_ids[row])}, position {position} is NaN or infinite; "
                "run the model in another dtype (--dtype float32)"
            )


def for_a_rule(batches: Iterator[ForwardBatch], special_ids: Collection[int]) -> Iterator[ForwardBatch]:
    """The first batches, as many as have `REFERENCE_TOKENS` ordinary tokens: those that the exclusion rule is measured on."""
    n_ordinary = 0
    while n_ordinary < REFERENCE_TOKENS and (batch := next(batches, None)) is not None:
        n_ordinary += batch.n_ordinary(special_ids)
        yield batch


def in_batches(sequences: Iterator[tuple[int, TokenSequence]], size: int) -> Iterator[ForwardBatch]:
    while group := list(islice(sequences, size)):
        yield ForwardBatch.of(group)


def batch_sequences(batch_tokens: int, options: SequenceOptions) -> int:
    if batch_tokens <= 0:
        raise UsageError(f"batch tokens must be positive, got {batch_tokens}")
    return max(1, batch_tokens // options.context)


def checked_points(lm: LanguageModel, points: Expression) -> dict[str, int]:
    """Width by point of what an expression names in the model."""
    found = lm.point_names.points(points)
    if not found:
        raise UsageError("no hook points given; name at least one, e.g. resid_post.14")
    return {point: lm.width(point) for point in found}
