"""Passages of held-out documents, to be told apart by the document they are from."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.errors import TextError
from saescope.evaluation.effects.class_set import ClassSet
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject
from saescope.text import SequenceOptions, Sequencer

DOCUMENTS = 8
PASSAGES = 60
LEAST_PASSAGES = 30
PASSAGE_TOKENS = 32
TEST_SHARE = 1 / 3
# Read before giving up on finding as many long documents.
_MOST_READ = 2**20


@dataclass(frozen=True)
class DocumentPassages:
    """Passages as token ids, in the order of their documents. The last third of each document's is held out."""

    texts: list[list[int]]
    label: Int[Tensor, "passages"]
    test: Bool[Tensor, "passages"]
    titles: tuple[str, ...]


def document_passages(subject: Subject, trained: Container[str], setting: Setting) -> DocumentPassages | str:
    """From the first documents that trained no coder and have enough passages, or why there are none.

    A passage of 32 tokens starts as the coder's training sequences do. Held-out passages come after all others of their
    document, so that no sentence is on both sides.
    """
    options = subject.sequence_options()
    prefix = len(Sequencer([], setting.lm.tokenizer, options).prefix)
    cut = SequenceOptions(context=PASSAGE_TOKENS + prefix, packed=False, bos=options.bos)
    sequencer = Sequencer(setting.corpus, setting.lm.tokenizer, cut, skip_ids=trained)
    by_document: dict[int, list[list[int]]] = {}
    read = 0
    try:
        for sequence in sequencer:
            document = int(sequence.document.max())
            if sum(len(found) >= PASSAGES for found in by_document.values()) == DOCUMENTS or read > _MOST_READ:
                break
            read += len(sequence)
            if len(sequence) == cut.context:
                by_document.setdefault(document, []).append(sequence.tokens.tolist())
    except TextError as error:
        return str(error)
    long = {document: found for document, found in by_document.items() if len(found) >= LEAST_PASSAGES}
    chosen = sorted(sorted(long, key=lambda document: -min(len(long[document]), PASSAGES))[:DOCUMENTS])
    if len(chosen) < 2:
        return (
            f"of the documents that trained no coder, {len(chosen)} of those read have {LEAST_PASSAGES} passages of "
            f"{PASSAGE_TOKENS} tokens, and 2 are needed"
        )
    most = max(LEAST_PASSAGES, min(PASSAGES, setting.examples))
    return _passages([_spread(long[document], most) for document in chosen], [_title(sequencer, one) for one in chosen])


def _spread(passages: list[list[int]], most: int) -> list[list[int]]:
    """At most so many of them, evenly spaced."""
    wanted = min(len(passages), most)
    return [passages[place * len(passages) // wanted] for place in range(wanted)]


def _title(sequencer: Sequencer, document: int) -> str:
    return sequencer.documents[document].title


def _passages(by_document: Sequence[list[list[int]]], titles: Sequence[str]) -> DocumentPassages:
    sizes = torch.tensor([len(passages) for passages in by_document])
    held_out = [torch.arange(n) >= n - round(n * TEST_SHARE) for n in sizes.tolist()]
    # Titles repeat in some corpora, and results are listed by them.
    unique = tuple(title if titles.count(title) == 1 else f"{title} [{place}]" for place, title in enumerate(titles))
    return DocumentPassages(
        [text for passages in by_document for text in passages],
        torch.repeat_interleave(torch.arange(len(sizes)), sizes),
        torch.cat(held_out),
        unique,
    )


def document_set(subject: Subject, passages: DocumentPassages, setting: Setting) -> ClassSet | str:
    """The passages' activations at positions that count, or why they cannot be probed."""
    found = setting.cache.of(
        passages.texts, subject.points, lambda done, total: setting.progress("run passages", done, total)
    )
    kept = found.kept(found.rule_of(subject, setting.lm.special_ids)).nonzero()[:, 0]
    example = found.text[kept]
    if example.unique().numel() < len(passages.texts):
        return "the coder's exclusion rule leaves no position of some passages"
    x = found.concatenated([part.point for part in subject.coder.reads], kept)
    facts = {
        "train": int((~passages.test).sum()),
        "test": int(passages.test.sum()),
        "passage_tokens": PASSAGE_TOKENS,
        "pooling": "mean over the passage's positions that count",
        "held_out": "the last third of each document's passages",
    }
    return ClassSet("documents", "Documents", x, example, passages.label, passages.test, passages.titles, facts)
