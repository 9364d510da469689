"""Shuffled batches straight from the model, through a bounded buffer, with nothing on disk."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
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
    in_batches,
)
from saescope.activations.documents import StoredDocument, trained_ids
from saescope.activations.exclusions import SINK_RATIO, KeptRule
from saescope.activations.shards import ROW_TENSORS, store_dtype
from saescope.activations.statistics import Moments, PointStatistics
from saescope.activations.store_stream import evenly_spaced
from saescope.activations.stream import Batch, RowLabels, SteppedStream, for_transfer
from saescope.errors import StoreError
from saescope.text import SequenceOptions

if TYPE_CHECKING:
    from saescope.lm import LanguageModel
    from saescope.text import Corpus, TokenSequence

BUFFER_ROWS = 2**17


@dataclass
class _Block:
    """Kept rows of consecutive training sequences, in text order."""

    pass_: int
    index: int
    rows: Float[Tensor, "n d_total"]
    labels: dict[str, Tensor]


class ModelStream(SteppedStream):
    """The rows of a harvest of the same text, without the harvest.

    The training sequences are run in blocks of at most `buffer_rows` rows; a block's rows are shuffled by (seed, pass,
    block) and handed out while a background thread runs the next: two blocks are in memory. `n_steps` is known before the
    model has run, from the ordinary tokens of the text; attention sinks make a pass a little shorter than that, and the
    last batches then come from the beginning of one more pass.

    The exclusion rule is measured as `harvest` does. `statistics()` are estimated on the first block of the first pass. The
    model is in use by the thread until `close()`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        corpus: Corpus,
        points: Sequence[str],
        options: SequenceOptions | None = None,
        *,
        tokens: int,
        batch_size: int = 4096,
        seed: int = 0,
        passes: float = 1,
        buffer_rows: int = BUFFER_ROWS,
        batch_tokens: int = BATCH_TOKENS,
        dtype: str = "bfloat16",
        sink_ratio: float = SINK_RATIO,
        prefetch: int = 1,
    ):
        self.options = options or SequenceOptions()
        self.widths = checked_points(lm, points)
        self.points = tuple(points)
        self.dtype = store_dtype(dtype)
        self.tokens = tokens
        self._lm = lm
        self._corpus = corpus
        self._batch_sequences = batch_sequences(batch_tokens, self.options)
        per_block = buffer_rows // (self._batch_sequences * self.options.context)
        self._block_sequences = max(1, per_block) * self._batch_sequences
        self._prefetch = min(prefetch, 1)
        self._next = (0, 0, 0)
        self._first_block: _Block | None = None
        self._statistics: dict[str, PointStatistics] | None = None

        excerpt = Excerpt(lm, corpus, self.options, tokens)
        sequences = iter(excerpt)
        head = list(itertools.islice(sequences, self._batch_sequences))
        self._kept_rule = self._measured(ForwardBatch.of(head), sink_ratio) if head else None
        special = np.array(sorted(lm.special_ids), dtype=np.int64)
        n_rows = 0
        self._held_out: list[int] = []
        for number, sequence in itertools.chain(head, sequences):
            if sequence.split == "train":
                n_rows += int((~np.isin(sequence.tokens, special)).sum())
            else:
                self._held_out.append(number)
        self.documents: list[StoredDocument] = excerpt.documents
        self.n_tokens = excerpt.n_tokens
        self.corpus_ended = excerpt.corpus_ended
        super().__init__(
            n_rows=n_rows,
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
        enough = -(-max_rows // self.options.context) + 1
        chosen = {self._held_out[i] for i in evenly_spaced(len(self._held_out), enough).tolist()}
        numbered = ((n, s) for n, s in Excerpt(self._lm, self._corpus, self.options, self.tokens) if n in chosen)
        gathered = [self._kept(batch)[0] for batch in in_batches(numbered, self._batch_sequences)]
        rows = torch.cat([torch.empty(0, sum(self.widths.values()), dtype=self.dtype), *gathered])
        return rows[torch.from_numpy(evenly_spaced(len(rows), max_rows))]

    def provenance(self) -> dict[str, Any]:
        return {
            "source": "model",
            "model": self._lm.identity(),
            "corpus": self._corpus.identity(),
            "sequences": self.options.model_dump(),
            "points": dict(self.widths),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tokens": self.n_tokens,
            "kept_rule": self.kept_rule.to_dict(),
            "trained_documents": self.trained_documents,
        }

    def state_dict(self) -> dict[str, Any]:
        """Beside the step, where its next batch begins: which pass, which block, which row of its shuffled order."""
        return {**super().state_dict(), "next": list(self._next)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        pass_, block, row = (int(number) for number in state["next"])
        self._next = (pass_, block, row)

    def _description(self) -> dict[str, Any]:
        return {
            "model": {key: value for key, value in self._lm.identity().items() if key not in ("spec", "name")},
            "corpus": self._corpus.identity(),
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
        pass_, index, row = self._next
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
                        self._next = (block.pass_, block.index, row)
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
            train = (pair for pair in Excerpt(self._lm, self._corpus, self.options, self.tokens) if _is_train(pair[1]))
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
        rows = torch.empty(size, sum(self.widths.values()), dtype=self.dtype)
        labels = {name: torch.empty(size, dtype=torch.int32) for name in ROW_TENSORS}
        filled = 0
        for batch in in_batches(iter(group), self._batch_sequences):
            if stopped.is_set():
                break
            kept, where = self._kept(batch)
            rows[filled : filled + len(kept)] = kept
            for name, values in labels.items():
                values[filled : filled + len(kept)] = where[name]
            filled += len(kept)
        block = _Block(pass_, index, rows[:filled], {name: values[:filled] for name, values in labels.items()})
        if (pass_, index) == (0, 0) and not stopped.is_set():
            self._first_block = block
        return block

    def _kept(self, batch: ForwardBatch) -> tuple[Float[Tensor, "n d_total"], dict[str, Tensor]]:
        """The rows of one forward batch, and their labels."""
        activations = batch.run(self._lm, self.points)
        mask = self.kept_rule.kept(batch.token_tensor(activations[self.points[0]].device), activations)
        rows = torch.cat([activations[point][mask].to(self.dtype) for point in self.points], dim=1).cpu()
        kept = mask.cpu().numpy()
        sequence, position = np.nonzero(kept)
        labels = {
            "token": batch.tokens[kept],
            "document": batch.document[kept],
            "sequence": batch.sequence_ids[sequence],
            "position": position.astype(np.int32),
        }
        return rows, {name: torch.from_numpy(values) for name, values in labels.items()}

    def _measured(self, batch: ForwardBatch, sink_ratio: float) -> KeptRule:
        activations = batch.run(self._lm, self.points)
        device = activations[self.points[0]].device
        return KeptRule.measured(batch.token_tensor(device), activations, self._lm.special_ids, sink_ratio)


def _is_train(sequence: TokenSequence) -> bool:
    return sequence.split == "train"
