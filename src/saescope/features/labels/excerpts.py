"""Short windows of text for a language model: some to explain a feature from, others to try the explanation on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from saescope.features.contexts import Context
from saescope.features.labels.halves import HELD_OUT, LABEL, halves_of
from saescope.features.labels.source import LabelSource
from saescope.features.labels.windows import NEIGHBOUR, NONE, POSITIVE, RANDOM, Text, draw

BEFORE, AFTER = 20, 8
# More are drawn than wanted, since a window must be silent from end to end, not only where it was drawn.
_DRAWN = ((48, 0, 0), (64, 160, 160))
# A token counts as active from this share of the window's peak on.
_ACTIVE = 0.3


class WindowSource(LabelSource, Protocol):
    """An index that gives windows."""

    def context(self, feature: int, position: int, before: int = 16, after: int = 16) -> Context: ...


@dataclass(frozen=True)
class Excerpt:
    """A window as text pieces with the feature's activation at each. neighbour: a silent window around a token that the feature
    fires on elsewhere, or close to a firing."""

    pieces: tuple[str, ...]
    values: tuple[float, ...]
    neighbour: bool = False

    @property
    def fires(self) -> bool:
        return max(self.values) > 0

    @property
    def active(self) -> tuple[bool, ...]:
        """The tokens with at least three tenths of the window's peak."""
        peak = max(self.values)
        return tuple(value > 0 and value >= _ACTIVE * peak for value in self.values)

    def plain(self) -> str:
        return _one_line("".join(self.pieces))

    def marked(self, where: Sequence[bool] | None = None) -> str:
        """The text with <<marks>> around the given tokens, or the active ones."""
        marks = self.active if where is None else tuple(where)
        text, inside = "", False
        for piece, mark in zip(self.pieces, marks, strict=True):
            text += "<<" if mark and not inside else ">>" if inside and not mark else ""
            text += piece
            inside = mark
        return _one_line(text + (">>" if inside else ""))


@dataclass(frozen=True)
class Excerpts:
    """explained: the strongest of the label half and some spread over its energy; fires and silent: of the held-out half, the
    silent ones checked over their whole length, half neighbours where there are so many."""

    explained: list[Excerpt]
    fires: list[Excerpt]
    silent: list[Excerpt]


class ExcerptDrawer:
    """Draws for one feature after the other; the text is looked through once."""

    def __init__(self, index: WindowSource, *, seed: int = 0, split: str = "section") -> None:
        self._index, self._seed = index, seed
        halves = halves_of(index, by=split, seed=seed)
        document = np.asarray(index.arrays["document"])
        starts = np.zeros(document.size, np.bool_)
        starts[np.asarray(index.arrays["sequence_offsets"])[:-1]] = True
        starts[1:] |= document[1:] != document[:-1]
        self._text = Text.of(index, halves, np.cumsum(starts).astype(np.int32))
        self._half = halves.half

    def draw(self, feature: int, n_explained: int, n_fires: int, n_silent: int) -> Excerpts:
        """Fewer than asked for where the feature or its silence does not give more. No position is in two windows."""
        windows = draw(self._index, np.array([feature]), self._text, seed=self._seed, drawn=_DRAWN)
        counts = windows.counts[0]
        strongest = windows.strongest[0][windows.strongest[0] != NONE]
        spread = windows.positions[0, LABEL, POSITIVE, : counts[LABEL, POSITIVE]]
        used: list[tuple[int, int]] = []
        explained = self._take(feature, strongest, (n_explained + 1) // 2, used)
        explained += self._take(feature, self._mixed(spread), n_explained - len(explained), used)
        fires = self._take(
            feature, self._mixed(windows.positions[0, HELD_OUT, POSITIVE, : counts[HELD_OUT, POSITIVE]]), n_fires, used
        )
        near = windows.positions[0, HELD_OUT, NEIGHBOUR, : counts[HELD_OUT, NEIGHBOUR]]
        # Those that carry the token come first in no order; the rest stand close to a firing and are rarely silent throughout.
        silent = self._take(feature, near, n_silent // 2, used, silent=True, neighbour=True)
        anywhere = windows.positions[0, HELD_OUT, RANDOM, : counts[HELD_OUT, RANDOM]]
        silent += self._take(feature, anywhere, n_silent - len(silent), used, silent=True)
        return Excerpts(explained, fires, silent)

    def _mixed(self, positions: NDArray[np.uint32]) -> NDArray[np.uint32]:
        return np.random.default_rng([self._seed, positions.size]).permutation(positions)

    def _take(
        self,
        feature: int,
        positions: NDArray[np.uint32],
        n: int,
        used: list[tuple[int, int]],
        *,
        silent: bool = False,
        neighbour: bool = False,
    ) -> list[Excerpt]:
        found: list[Excerpt] = []
        for position in positions.tolist():
            if len(found) >= n:
                break
            context = self._index.context(feature, position, BEFORE, AFTER)
            first = position - context.peak
            last = first + len(context.tokens)
            # A window over the cut between the halves would show text of both.
            ends = self._half[[first, last - 1]]
            crosses = ends[0] >= 0 and ends[1] >= 0 and ends[0] != ends[1]
            if crosses or any(first < stop and start < last for start, stop in used):
                continue
            if silent and max(context.activations) > 0:
                continue
            used.append((first, last))
            pieces = tuple(self._index.pieces(context.tokens))
            found.append(Excerpt(pieces, tuple(context.activations), neighbour))
        return found


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "⏎")
