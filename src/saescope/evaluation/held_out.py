"""The text a coder is measured on: documents none of whose tokens trained it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saescope.errors import TextError
from saescope.features import Passages
from saescope.text import Corpus, DocumentRecord, SequenceOptions, Sequencer, TokenSequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Where only part of a text is wanted, this many times as much is read, and this much at least, and thinned evenly: for the
# variety of documents.
_REACH = 8
_LEAST_READ = 2**18


@dataclass(frozen=True)
class HeldOutText:
    """Sequences of documents that trained no coder under measurement, and the table their documents index."""

    sequences: list[TokenSequence]
    documents: list[DocumentRecord]
    skipped_documents: int
    identity: dict[str, Any]

    @property
    def n_tokens(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)

    def batches(self, tokens: int) -> Iterator[Passages]:
        """Sequences in order, as many at once as have at most `tokens` tokens with padding (at least one)."""
        batch: list[TokenSequence] = []
        done = 0
        for sequence in self.sequences:
            longest = max(len(sequence), *(len(other) for other in batch)) if batch else len(sequence)
            if batch and longest * (len(batch) + 1) > tokens:
                yield Passages.of(batch, done)
                done += len(batch)
                batch = []
            batch.append(sequence)
        if batch:
            yield Passages.of(batch, done)


def held_out_text(
    corpus: Corpus | Iterable[Any],
    tokenizer: PreTrainedTokenizerBase,
    options: SequenceOptions,
    trained: Container[str],
    max_tokens: int | None = None,
) -> HeldOutText:
    """All documents of `corpus` whose id is not in `trained`, cut as `options` say.

    With `max_tokens`, evenly spaced sequences of the first 8·max_tokens tokens (262,144 at least), so that a small
    measurement still sees many documents. TextError when no document is left.
    """
    sequencer = Sequencer(corpus, tokenizer, options, skip_ids=trained)
    sequences: list[TokenSequence] = []
    n_tokens = 0
    try:
        for sequence in sequencer:
            sequences.append(sequence)
            n_tokens += len(sequence)
            if max_tokens is not None and n_tokens >= max(_REACH * max_tokens, _LEAST_READ):
                break
    except TextError:
        if sequencer.skipped_documents and not sequencer.documents:
            spec = getattr(corpus, "spec", "the corpus")
            raise TextError(
                f"all {sequencer.skipped_documents} documents of {spec} trained the coder, so none is left to measure on; "
                "give other text with --corpus"
            ) from None
        raise
    return HeldOutText(
        thinned(sequences, max_tokens),
        list(sequencer.documents),
        sequencer.skipped_documents,
        corpus.identity() if isinstance(corpus, Corpus) else {},
    )


def thinned(sequences: list[TokenSequence], max_tokens: int | None) -> list[TokenSequence]:
    """Evenly spaced sequences of at most `max_tokens` tokens together, always at least one."""
    total = sum(len(sequence) for sequence in sequences)
    if max_tokens is None or total <= max_tokens:
        return sequences
    wanted = max(1, int(len(sequences) * max_tokens / total))
    return [sequences[i * len(sequences) // wanted] for i in range(wanted)]
