"""Filling sequences with the tokens of documents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32

from saescope.text.encoding import EncodedText

Tokens = Int32[np.ndarray, "n"]
Columns = tuple[Tokens, Tokens, Tokens, Tokens]
"""tokens, document, start, end of one sequence."""

INSERTED = -1


class Packer:
    """Sequences of exactly `context` tokens, a document going on in the next one where it did not fit.

    `prefix` opens every sequence; `between` opens every document that does not open a sequence. `pending` counts the
    document tokens taken in and not given out yet.
    """

    def __init__(self, context: int, prefix: Tokens, between: Tokens) -> None:
        self.context = context
        self.prefix = prefix
        self.between = between
        self.pending = 0
        self._parts: list[Columns] = []
        self._filled = 0

    def add(self, document: int, encoded: EncodedText) -> Iterator[Columns]:
        """Take in a document and give out every sequence it completes."""
        if not len(encoded):
            return
        if self._filled:
            self._append(_inserted(self.between[: self.context - self._filled]))
        taken = 0
        while taken < len(encoded):
            if self._filled == self.context:
                yield self._take()
            if not self._filled:
                self._append(_inserted(self.prefix))
            last = min(taken + self.context - self._filled, len(encoded))
            self._append(_owned(document, encoded, taken, last))
            self.pending += last - taken
            taken = last
        if self._filled == self.context:
            yield self._take()

    def _append(self, columns: Columns) -> None:
        self._parts.append(columns)
        self._filled += len(columns[0])

    def _take(self) -> Columns:
        sequence = _joined(self._parts)
        self._parts, self._filled, self.pending = [], 0, 0
        return sequence


class OnePerDocument:
    """Sequences of one document each, of at most `context` tokens; a longer document gives several."""

    pending = 0

    def __init__(self, context: int, prefix: Tokens) -> None:
        self.context = context
        self.prefix = prefix

    def add(self, document: int, encoded: EncodedText) -> Iterator[Columns]:
        room = self.context - len(self.prefix)
        for first in range(0, len(encoded), room):
            last = min(first + room, len(encoded))
            yield _joined([_inserted(self.prefix), _owned(document, encoded, first, last)])


def _inserted(tokens: Tokens) -> Columns:
    nowhere = np.full(len(tokens), INSERTED, dtype=np.int32)
    return tokens, nowhere, nowhere, nowhere


def _owned(document: int, encoded: EncodedText, first: int, last: int) -> Columns:
    owner = np.full(last - first, document, dtype=np.int32)
    return encoded.tokens[first:last], owner, encoded.start[first:last], encoded.end[first:last]


def _joined(parts: list[Columns]) -> Columns:
    tokens, document, start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    return tokens, document, start, end
