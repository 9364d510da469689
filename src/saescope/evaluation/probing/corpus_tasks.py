"""Tasks made from any text, so that anyone can measure the same without labelled data.

    article     a passage is of this article, not of another one. Split by section of the article
    file        a passage is of this file of the corpus, not of another one. Split by document
    token       what a token is: a digit, a capital after a space, … Split by document
    next        what comes after a token that is a plain word or part of one. Split by document

What a token is, the coder reads off the token; what comes next, the model has had to work out or to guess.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from saescope.evaluation.probing.passages import Pool
from saescope.evaluation.probing.task import Candidates

# With fewer documents, a file's passages cannot be split by document.
_LEAST_DOCUMENTS = 6


@dataclass(frozen=True)
class Seen:
    """A token and its neighbours, as text; "" beyond the passage."""

    before: str
    piece: str
    after: str


def _all(text: str, *kinds: str) -> bool:
    return bool(text) and all(unicodedata.category(character)[0] in kinds for character in text)


def _is_word(piece: str) -> bool:
    """Letters, after a space or going on."""
    return _all(piece.removeprefix(" "), "L")


def _capitalised(piece: str) -> bool:
    return piece.startswith(" ") and _is_word(piece) and piece[1].isupper()


TOKEN_KINDS: dict[str, Callable[[Seen], bool]] = {
    "digit": lambda seen: _all(seen.piece.strip(), "N"),
    "capitalised": lambda seen: _capitalised(seen.piece),
    "punctuation": lambda seen: _all(seen.piece.strip(), "P"),
    "inside a word": lambda seen: _all(seen.piece, "L") and bool(seen.before) and seen.before[-1].isalpha(),
}
NEXT_KINDS: dict[str, Callable[[Seen], bool]] = {
    "comma": lambda seen: seen.after.startswith(","),
    "end of sentence": lambda seen: seen.after.startswith((".", "!", "?")),
    "the": lambda seen: seen.after == " the",
    "of": lambda seen: seen.after == " of",
    "capitalised": lambda seen: _capitalised(seen.after),
    "bracket": lambda seen: seen.after.lstrip(" ").startswith("("),
    "same word": lambda seen: _all(seen.after[:1], "L"),
}


def corpus_tasks(pool: Pool, usable: Bool[np.ndarray, "rows"]) -> list[Candidates]:
    """Everything that can be told apart in this pool; `usable`: the rows that count. Some may prove too small to split."""
    starts = np.cumsum([0, *(len(text) for text in pool.texts)])
    some = np.add.reduceat(usable, starts[:-1]) > 0
    return [*_article_tasks(pool, some), *_file_tasks(pool, some), *_token_tasks(pool, usable, starts)]


def _article_tasks(pool: Pool, some: Bool[np.ndarray, "passages"]) -> list[Candidates]:
    """A section of an article is a group; of other documents there are a few passages each, which stay together."""
    found = []
    passages = np.flatnonzero(some)
    document = pool.document[passages]
    in_sections = np.isin(document, pool.articles)
    keys = np.stack([document, np.where(in_sections, pool.section[passages], 0)], axis=1)
    group = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    for number in pool.articles:
        facts = {"grouped_by": "section of the article"}
        name = f"article: {pool.titles[number]}"
        found.append(Candidates(name, "corpus", "text", passages, document == number, group, None, facts))
    return found


def _file_tasks(pool: Pool, some: Bool[np.ndarray, "passages"]) -> list[Candidates]:
    passages = np.flatnonzero(some)
    document = pool.document[passages]
    files = np.array([pool.files[number] for number in document])
    names = [name for name in dict.fromkeys(files) if len(np.unique(document[files == name])) >= _LEAST_DOCUMENTS]
    if len(names) < 2:
        return []
    # Of two files, one is told from the other: the second task would be the first one turned round.
    return [
        Candidates(
            f"file: {name}", "corpus", "text", passages, files == name, document, None, {"grouped_by": "document"}
        )
        for name in (names[:1] if len(names) == 2 else names)
    ]


def _token_tasks(
    pool: Pool, usable: Bool[np.ndarray, "rows"], starts: Int[np.ndarray, "passages_plus_one"]
) -> list[Candidates]:
    seen: list[Seen] = []
    for pieces in pool.pieces:
        around = ["", *pieces, ""]
        seen += [Seen(*around[place : place + 3]) for place in range(len(pieces))]
    document = np.repeat(pool.document, np.diff(starts))
    last = np.zeros(len(seen), dtype=bool)
    last[starts[1:] - 1] = True
    words = usable & ~last & np.array([_is_word(one.piece) for one in seen])
    found = []
    by_document = {"grouped_by": "document"}
    for level, kinds, rows in (
        ("token", TOKEN_KINDS, np.flatnonzero(usable)),
        ("next", NEXT_KINDS, np.flatnonzero(words)),
    ):
        for kind, holds in kinds.items():
            label = np.array([holds(seen[row]) for row in rows], dtype=bool)
            found.append(
                Candidates(f"{level}: {kind}", "corpus", "token", rows, label, document[rows], None, by_document)
            )
    return found
