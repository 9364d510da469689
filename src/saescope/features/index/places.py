"""Where each document's text lies: its stretches, each of one sequence, in the text's order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64
from numpy.typing import NDArray

# Positions looked at in one piece: a mapped array is never in memory as a whole.
_CHUNK = 1 << 22


@dataclass(frozen=True)
class DocumentPlaces:
    """One document's tokens in an index. A place counts them from 0 on; a position counts all tokens of the index.

    start, end: first position of each stretch, and the one after its last; place: of each stretch's first token; length: of the
    document, in tokens, as far as the index has it.
    """

    start: Int64[np.ndarray, "stretches"]
    end: Int64[np.ndarray, "stretches"]
    place: Int64[np.ndarray, "stretches"]
    length: int

    def positions(self, first: int, stop: int) -> Int64[np.ndarray, "n"]:
        """The positions of places first … stop - 1, those that there are."""
        places = np.arange(max(first, 0), min(stop, self.length), dtype=np.int64)
        stretch = self.stretch_of(places)
        found: NDArray[np.int64] = self.start[stretch] + places - self.place[stretch]
        return found

    def stretch_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which stretch each place is in."""
        stretch: NDArray[np.int64] = np.searchsorted(self.place, places, side="right") - 1
        return stretch

    def place_of(self, position: int) -> int | None:
        """The place of a position; None where it is not this document's."""
        stretch = int(np.searchsorted(self.start, position, side="right")) - 1
        if stretch < 0 or position >= self.end[stretch]:
            return None
        return int(self.place[stretch] + position - self.start[stretch])

    def among(self, ascending: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of ascending positions are this document's: their numbers among those given, and their places."""
        # Of the same type: else all of what may be mapped would be converted.
        low = np.searchsorted(ascending, self.start.astype(ascending.dtype))
        high = np.searchsorted(ascending, self.end.astype(ascending.dtype))
        counts = high - low
        numbers = np.arange(counts.sum()) + np.repeat(low - (np.cumsum(counts) - counts), counts)
        places = ascending[numbers].astype(np.int64) + np.repeat(self.place - self.start, counts)
        return numbers, places


@dataclass(frozen=True)
class TextPlaces:
    """The places of all documents, from one look at every position.

    start, end [stretches]: document after document, each one's ascending; offsets [documents + 1]: where each document's begin.
    """

    start: Int64[np.ndarray, "stretches"]
    end: Int64[np.ndarray, "stretches"]
    offsets: Int64[np.ndarray, "documents_and_one"]

    @staticmethod
    def of(
        document: Int32[np.ndarray, "positions"], sequence_offsets: Int64[np.ndarray, "sequences_and_one"], n: int
    ) -> TextPlaces:
        """From the document of every position (-1: of none), where sequences begin, and the number of documents."""
        bounds = [np.asarray(sequence_offsets, np.int64)]
        for first in range(0, len(document), _CHUNK):
            part = np.asarray(document[max(first - 1, 0) : first + _CHUNK])
            bounds.append(np.flatnonzero(part[1:] != part[:-1]) + max(first - 1, 0) + 1)
        edges = np.unique(np.concatenate(bounds))
        start, end = edges[:-1], edges[1:]
        owner = np.asarray(document[start], np.int64)
        own = np.flatnonzero(owner >= 0)
        order = own[np.argsort(owner[own], kind="stable")]
        return TextPlaces(start[order], end[order], np.searchsorted(owner[order], np.arange(n + 1)))

    def __getitem__(self, document: int) -> DocumentPlaces:
        own = slice(int(self.offsets[document]), int(self.offsets[document + 1]))
        start, end = self.start[own], self.end[own]
        lengths = end - start
        return DocumentPlaces(start, end, np.cumsum(lengths) - lengths, int(lengths.sum()))
