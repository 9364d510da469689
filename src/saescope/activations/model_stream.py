"""Shuffled batches straight from the model, through a bounded buffer, with nothing on disk."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saescope.activations.background import ahead
from saescope.activations.batches import (
    BATCH_TOKENS,
    Excerpt,
    ForwardBatch,
    batch_sequences,
    checked_points,
    for_a_rule,
    in_batches,
)
from saescope.activations.documents import StoredDocument, trained_ids
from saescope.activations.estimate import readable_bytes
from saescope.activations.exclusions import SINK_RATIO, KeptRule
from saescope.activations.memory import rows_within
from saescope.activations.shards import ROW_TENSORS, store_dtype, to_store
from saescope.activations.statistics import Moments, PointStatistics
from saescope.activations.store_stream import evenly_spaced
from saescope.activations.stream import Batch, RowLabels, SteppedStream, for_transfer
from saescope.errors import StoreError, UsageError
from saescope.text import SequenceOptions

if TYPE_CHECKING:
    from saescope.lm import Expression, LanguageModel
    from saescope.text import Corpus, TokenSequence

# Two blocks of this many rows of one point of width 576 are 0.3 GiB, and mix 500 sequences. What is wider stays within the
# bytes, so that the points of every layer at once do not ask a small machine for 18 GB.
BLOCK_ROWS = 2**17
BLOCKS_BYTES = 2**30
_COPIED_ROWS = 1024
# Of the rows that a pass should have by the first batch's share of sinks, this part is counted on: were there fewer, the last
# batch would ask for a whole block of one more pass.
_SURE = 0.995
# A text is read and tokenised when its rows are counted; up to so many bytes of tokens and places (16 a token) are kept for
# the blocks. A longer text is tokenised again by every pass.
_KEPT_BYTES = 2**26


@dataclass
class _Block:
    """Kept rows of consecutive training sequences, in text order."""

    pass_: int
    index: int
    rows: Float[Tensor, "n d_total"]
    labels: dict[str, Tensor]


class ModelStream(SteppedStream):
    """The rows of a harvest of the same text, without the harvest.

    The training sequences are run in blocks; a block's rows are shuffled by (seed, pass, block) and handed out while a
    background thread runs the next. `memory` is what the rows of these two blocks may take together, in bytes (default:
    131,072 rows a block, 1 GiB together at most); beside them are the model, what one forward batch captures, and the
    batches handed out. `n_steps` is known before the whole text has run, from its ordinary tokens and the first batch's share
    of attention sinks; should a pass be shorter than that, the last batches come from the beginning of one more pass.

    `points`: names, or an expression such as `"mlp_in.*,mlp_out.*"`.

    The exclusion rule is measured as `harvest` does. `statistics()` are estimated on the first block of the first pass. The
    model is in use by the thread until `close()`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        corpus: Corpus,
        points: Expression,
        options: SequenceOptions | None = None,
        *,
        tokens: int,
        batch_size: int = 4096,
        seed: int = 0,
        passes: float = 1,
        memory: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        dtype: str = "bfloat16",
        sink_ratio: float = SINK_RATIO,
        prefetch: int = 1,
    ):
        self.options = options or SequenceOptions()
        self.widths = checked_points(lm, points)
        self.points = tuple(self.widths)
        self.dtype = store_dtype(dtype)
        self.tokens = tokens
        self._lm = lm
        self._corpus = corpus
        # Once: it reads every file, and a file that grows later is not what was trained on.
        self._corpus_identity = corpus.identity()
        self._batch_sequences = batch_sequences(batch_tokens, self.options)
        self._block_sequences = self._sequences_within(memory)
        self._prefetch = min(prefetch, 1)
        # Where the batch of a step begins: pass, block, row of its shuffled order. Of two steps at most, since a batch is
        # made before it is counted, and what interrupts that leaves the earlier one.
        self._begins = {0: (0, 0, 0)}
        self._first_block: _Block | None = None
        self._statistics: dict[str, PointStatistics] | None = None

        excerpt = Excerpt(lm, corpus, self.options, tokens)
        sequences = iter(excerpt)
        head: list[tuple[int, TokenSequence]] = []

        def noted() -> Iterator[tuple[int, TokenSequence]]:
            for one in sequences:
                head.append(one)
                yield one

        measured = list(for_a_rule(in_batches(noted(), self._batch_sequences), lm.special_ids))
        self._kept_rule: KeptRule | None = None
        share = 1.0
        if head:
            self._kept_rule, share = self._measured(measured, sink_ratio)
        special = np.array(sorted(lm.special_ids), dtype=np.int64)
        n_rows = 0
        self._held_out: list[int] = []
        kept: list[tuple[int, TokenSequence]] | None = []
        kept_bytes = 0
        for number, sequence in itertools.chain(head, sequences):
            if kept is not None:
                kept.append((number, sequence))
                kept_bytes += 4 * sequence.tokens.nbytes
                kept = kept if kept_bytes <= _KEPT_BYTES else None
            if sequence.split == "train":
                n_rows += int((~np.isin(sequence.tokens, special)).sum())
            else:
                self._held_out.append(number)
        self._kept_sequences = kept
        self.documents: list[StoredDocument] = excerpt.documents
        self.n_tokens = excerpt.n_tokens
        self.corpus_ended = excerpt.corpus_ended
        super().__init__(
            n_rows=n_rows if share == 1 else int(_SURE * share * n_rows),
            batch_size=batch_size,
            seed=seed,
            passes=passes,
            described=f"{self.n_tokens:,} tokens of text",
        )

    @property
    def kept_rule(self) -> KeptRule:
        assert self._kept_rule is not None, "a corpus without a sequence raises TextError"
        return self._kept_rule

    @property
    def trained_documents(self) -> list[str]:
        return trained_ids(self.documents)

    def statistics(self) -> dict[str, PointStatistics]:
        """Of the first block of the text, which stays until the second is due: it is not run again for the first batches."""
        if self._statistics is None:
            block = next(self._blocks(0, 0, threading.Event()))
            parts = block.rows.split(list(self.widths.values()), dim=1)
            self._statistics = {
                point: Moments(self.widths[point]).add(part).statistics()
                for point, part in zip(self.points, parts, strict=True)
            }
        return self._statistics

    def held_out_rows(self, max_rows: int) -> Float[Tensor, "n d_total"]:
        """At most `max_rows` rows, evenly spaced over held-out sequences that are evenly spaced over the text."""
        if max_rows <= 0:
            return self._empty(0)
        enough = -(-max_rows // self.options.context) + 1
        chosen = {self._held_out[i] for i in evenly_spaced(len(self._held_out), enough).tolist()}
        group = [(number, sequence) for number, sequence in self._sequences() if number in chosen]
        rows = self._empty(sum(len(sequence.tokens) for _, sequence in group))
        filled = 0
        for batch in in_batches(iter(group), self._batch_sequences):
            filled += int(self._put(batch, rows[filled:]).sum())
        wanted = torch.from_numpy(evenly_spaced(filled, max_rows))
        # Moved up in place: the i-th of them never stands before row i, and wide rows are too large to hold twice.
        for start in range(0, len(wanted), _COPIED_ROWS):
            chosen_rows = wanted[start : start + _COPIED_ROWS]
            rows[start : start + len(chosen_rows)] = rows[chosen_rows]
        return rows[: len(wanted)]

    def provenance(self) -> dict[str, Any]:
        return {
            "source": "model",
            "model": self._lm.identity(),
            "corpus": self._corpus_identity,
            "sequences": self.options.model_dump(),
            "points": dict(self.widths),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tokens": self.n_tokens,
            "kept_rule": self.kept_rule.to_dict(),
            "trained_documents": self.trained_documents,
        }

    def state_dict(self) -> dict[str, Any]:
        """Beside the step, where its next batch begins: which pass, which block, which row of its shuffled order."""
        return {**super().state_dict(), "next": list(self._begins[self.step])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        pass_, block, row = (int(number) for number in state["next"])
        self._begins = {self.step: (pass_, block, row)}

    def _description(self) -> dict[str, Any]:
        return {
            "model": {key: value for key, value in self._lm.identity().items() if key not in ("spec", "name")},
            "corpus": self._corpus_identity,
            "sequences": self.options.model_dump(),
            "points": list(self.points),
            "tokens": self.tokens,
            "dtype": str(self.dtype),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "batch_sequences": self._batch_sequences,
            "block_sequences": self._block_sequences,
            "kept_rule": self.kept_rule.to_dict(),
        }

    def _batches(self, labelled: bool) -> Generator[Batch, None, None]:
        pass_, index, row = self._begins[self.step]
        wanted = (self.n_steps - self.step) * self.batch_size
        rows = torch.empty(0)
        labels: dict[str, Tensor] = {}
        filled = 0
        blocks = ahead(
            lambda stopped: self._enough(pass_, index, row + wanted, stopped), self._prefetch, "saescope-model"
        )
        try:
            for block in blocks:
                if block is not self._first_block:
                    self._first_block = None
                n = len(block.rows)
                order = torch.from_numpy(np.random.default_rng([self.seed, block.pass_, block.index]).permutation(n))
                while row < n and wanted:
                    if not filled:
                        rows = torch.empty(self.batch_size, block.rows.shape[1], dtype=self.dtype)
                        labels = {name: torch.empty(self.batch_size, dtype=torch.int32) for name in ROW_TENSORS}
                    taken = order[row : row + self.batch_size - filled]
                    rows[filled : filled + len(taken)] = block.rows[taken]
                    for name, values in labels.items():
                        values[filled : filled + len(taken)] = block.labels[name][taken]
                    filled += len(taken)
                    row += len(taken)
                    if filled == self.batch_size:
                        this, after = self._begins[self.step], (block.pass_, block.index, row)
                        self._begins = {self.step: this, self.step + 1: after}
                        wanted -= filled
                        filled = 0
                        yield for_transfer(rows), RowLabels(**labels) if labelled else None
                row = 0
                del block
        finally:
            blocks.close()

    def _enough(self, pass_: int, index: int, n_rows: int, stopped: threading.Event) -> Iterator[_Block]:
        """Blocks from that one on, as many as it takes to have `n_rows`."""
        for block in self._blocks(pass_, index, stopped):
            n_rows -= len(block.rows)
            yield block
            del block
            if n_rows <= 0:
                return

    def _blocks(self, pass_: int, index: int, stopped: threading.Event) -> Iterator[_Block]:
        while True:
            train = (pair for pair in self._sequences() if _is_train(pair[1]))
            for _ in itertools.islice(train, index * self._block_sequences):
                pass
            empty = index == 0
            while group := list(itertools.islice(train, self._block_sequences)):
                block = self._filled(pass_, index, group, stopped)
                if stopped.is_set():
                    return
                empty = empty and not len(block.rows)
                yield block
                del block
                index += 1
            if empty:
                raise StoreError(
                    "every position of the training text counts as an attention sink; raise the sink ratio"
                )
            pass_, index = pass_ + 1, 0

    def _filled(
        self, pass_: int, index: int, group: list[tuple[int, TokenSequence]], stopped: threading.Event
    ) -> _Block:
        if self._first_block is not None and (pass_, index) == (0, 0):
            return self._first_block
        size = sum(len(sequence.tokens) for _, sequence in group)
        rows = self._empty(size)
        labels = {name: torch.empty(size, dtype=torch.int32) for name in ROW_TENSORS}
        filled = 0
        for batch in in_batches(iter(group), self._batch_sequences):
            if stopped.is_set():
                break
            kept = self._put(batch, rows[filled:])
            n = int(kept.sum())
            for name, values in _labels(batch, kept).items():
                labels[name][filled : filled + n] = values
            filled += n
        block = _Block(pass_, index, rows[:filled], {name: values[:filled] for name, values in labels.items()})
        if (pass_, index) == (0, 0) and not stopped.is_set():
            self._first_block = block
        return block

    def _put(self, batch: ForwardBatch, rows: Float[Tensor, "room d_total"]) -> np.ndarray:
        """Writes the kept rows of one forward batch to the beginning of `rows`; returns which positions they are.

        Point by point, each given up once it is written: a second copy of all would be the largest thing in memory.
        """
        activations = batch.run(self._lm, self.points)
        mask = self.kept_rule.kept(batch.token_tensor(activations[self.points[0]].device), activations)
        kept: np.ndarray = mask.cpu().numpy()
        n, start = int(kept.sum()), 0
        for point, width in self.widths.items():
            rows[:n, start : start + width] = to_store(activations.pop(point)[mask], self.dtype, point)
            start += width
        return kept

    def _empty(self, n: int) -> Float[Tensor, "n d_total"]:
        return torch.empty(n, sum(self.widths.values()), dtype=self.dtype)

    def _sequences_within(self, memory: int | None) -> int:
        """Sequences of a block: whole forward batches, or, where not even one fits, as many sequences as do."""
        row_bytes = sum(self.widths.values()) * self.dtype.itemsize
        rows = rows_within(memory, row_bytes, default=BLOCKS_BYTES, at_most=BLOCK_ROWS, copies=2)
        sequences = rows // self.options.context
        if sequences < 1 and memory is not None:
            raise UsageError(
                f"{readable_bytes(memory)} of memory do not hold two sequences of {self.options.context} tokens at "
                f"{len(self.points)} hook points; give at least {readable_bytes(2 * self.options.context * row_bytes)}"
            )
        return sequences // self._batch_sequences * self._batch_sequences or max(1, sequences)

    def _sequences(self) -> Iterable[tuple[int, TokenSequence]]:
        """The numbered sequences of the text."""
        if self._kept_sequences is not None:
            return self._kept_sequences
        return Excerpt(self._lm, self._corpus, self.options, self.tokens)

    def _measured(self, batches: Sequence[ForwardBatch], sink_ratio: float) -> tuple[KeptRule, float]:
        """The exclusion rule, and the share of these batches' ordinary tokens that it keeps."""
        ran = [(batch.token_tensor(self._lm.device), batch.run(self._lm, self.points)) for batch in batches]
        rule = KeptRule.measured(ran, self._lm.special_ids, sink_ratio)
        found = [rule.exclusions(tokens, activations) for tokens, activations in ran]
        kept, sinks = sum(int(one.kept.sum()) for one in found), sum(int(one.any_sink.sum()) for one in found)
        return rule, kept / max(1, kept + sinks)


def _labels(batch: ForwardBatch, kept: np.ndarray) -> dict[str, Tensor]:
    """Where each kept row of a forward batch came from."""
    sequence, position = np.nonzero(kept)
    labels = {
        "token": batch.tokens[kept],
        "document": batch.document[kept],
        "sequence": batch.sequence_ids[sequence],
        "position": position.astype(np.int32),
    }
    return {name: torch.from_numpy(values) for name, values in labels.items()}


def _is_train(sequence: TokenSequence) -> bool:
    return sequence.split == "train"
