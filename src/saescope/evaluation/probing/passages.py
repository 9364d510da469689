"""Passages of documents that trained no coder under measurement, from which tasks are made without labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from saescope.errors import TextError
from saescope.lm import LanguageModel
from saescope.text import Corpus, Document, SequenceOptions, Sequencer, TokenText

# Tokens read in search of documents; a long corpus is not read to its end.
_READ = 2**20
# An article that is told from others gives up to this many passages, any other document a few, evenly spaced.
_OF_ARTICLE = 96
_LEAST_OF_ARTICLE = 32
_OF_OTHERS = 6
_OTHERS = 72
# Passages of one section, which is on one side of a split; the passage after it is left out, so that no passage of one
# side goes on from one of the other.
_SECTION = 4


@dataclass(frozen=True)
class Pool:
    """texts: token ids of each passage, a BOS included where the model wants one. pieces: the text of each token. document,
    section [passages]. titles, files: of each document, by number. articles: documents with many passages, longest first."""

    texts: list[list[int]]
    pieces: list[list[str]]
    document: Int[np.ndarray, "passages"]
    section: Int[np.ndarray, "passages"]
    titles: list[str]
    files: list[str]
    articles: list[int]
    facts: dict[str, Any]


def passages_of(
    corpus: Corpus | Iterable[Document],
    lm: LanguageModel,
    options: SequenceOptions,
    trained: set[str],
    *,
    passage_tokens: int,
    n_articles: int,
) -> Pool:
    """Passages of `passage_tokens` tokens of one document each; shorter rests are left out. TextError where no document is
    left that is long enough for one."""
    own = Sequencer([], lm.tokenizer, options).prefix
    cut = options.model_copy(update={"context": passage_tokens + len(own), "packed": False})
    sequencer = Sequencer(corpus, lm.tokenizer, cut, skip_ids=trained)
    by_document: dict[int, list[list[int]]] = {}
    read = 0
    for sequence in sequencer:
        read += len(sequence)
        if len(sequence) == cut.context:
            by_document.setdefault(int(sequence.document[-1]), []).append(sequence.tokens.tolist())
        if read >= _READ:
            break
    if not by_document:
        raise TextError(
            f"no document of {getattr(corpus, 'spec', 'the corpus')} that trained no coder has {passage_tokens} tokens"
        )
    by_length = sorted(by_document, key=lambda number: -len(by_document[number]))
    articles = [number for number in by_length[:n_articles] if len(by_document[number]) >= _LEAST_OF_ARTICLE]
    others = [number for number in by_document if number not in articles]
    if len(others) > _OTHERS:
        others = [others[i * len(others) // _OTHERS] for i in range(_OTHERS)]
    texts, document, section = [], [], []
    for number in sorted([*articles, *others]):
        found = by_document[number]
        places = _of_article(len(found)) if number in articles else _evenly(len(found), _OF_OTHERS)
        for place in places:
            texts.append(found[place])
            document.append(number)
            section.append(place // (_SECTION + 1))
    token_text = TokenText(lm.tokenizer)
    records = sequencer.documents
    return Pool(
        texts,
        [token_text.pieces(text) for text in texts],
        np.array(document),
        np.array(section),
        [record.title for record in records],
        [record.source.rpartition(":")[0] or record.source for record in records],
        articles,
        {
            "passages": len(texts),
            "passage_tokens": passage_tokens,
            "documents": len(articles) + len(others),
            "skipped_trained_documents": sequencer.skipped_documents,
        },
    )


def _of_article(n: int) -> list[int]:
    """The first passages, without the one after each section."""
    return [place for place in range(n) if place % (_SECTION + 1) < _SECTION][:_OF_ARTICLE]


def _evenly(n: int, most: int) -> list[int]:
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]
