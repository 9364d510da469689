"""Where a feature fires and where it might have: positions drawn to find a label with, and others to try it on.

Positives are firing positions, drawn in proportion to the square of the activation: by the energy they add to the
reconstruction, so that the many faint firings of a feature do not drown those that it is for. Negatives are positions where
the feature is checked to be silent: half of them anywhere, half neighbours of positives, which carry the same token, or, where
the token has no silent occurrence left, stand within a few tokens of a firing. No position is drawn twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saescope.features.labels.compiled import compiled
from saescope.features.labels.halves import Halves
from saescope.features.labels.source import LabelSource
from saescope.kernels.threads import in_ranges

Positions = NDArray[np.uint32]

# Positives, random negatives, neighbour negatives a feature: to find its label with, to try it on.
DRAWN = ((256, 192, 192), (128, 64, 64))
POSITIVE, RANDOM, NEIGHBOUR = range(3)
# With fewer positives than this in a half there is nothing to find a label with, or to try it on: all of them help to find it.
LEAST_IN_A_HALF = 10
STRONGEST = 16
NONE = np.uint32(0xFFFFFFFF)
_REACH = 16
_TRIES = 12


@dataclass(frozen=True)
class Windows:
    """positions [features, side, kind, most]: label half and held-out half; positives, random negatives, neighbours.

    counts [features, side, kind]: how many of them there are. same_token [features, side]: how many of the neighbours
    carry a positive's token. strongest [features, 16]: the strongest firings of the label half (NONE: no more). Held-out
    counts are 0 where the feature has too few firings in either half.
    """

    positions: Positions
    counts: NDArray[np.int32]
    same_token: NDArray[np.int32]
    strongest: Positions

    def of(self, side: int) -> tuple[Positions, NDArray[np.int32]]:
        """Positions [features, kind, most] and counts [features, kind] of one half."""
        # In one piece each: a loop is compiled anew for every layout that it is given.
        return np.ascontiguousarray(self.positions[:, side]), np.ascontiguousarray(self.counts[:, side])


@dataclass(frozen=True)
class Text:
    """What drawing needs: per half, the coded positions, all together and by token."""

    half: NDArray[np.int8]
    tokens: NDArray[np.int32]
    region: NDArray[np.int32]
    coded: Positions
    coded_offsets: NDArray[np.int64]
    of_token: Positions
    of_token_offsets: NDArray[np.int64]

    @staticmethod
    def of(source: LabelSource, halves: Halves, region: NDArray[np.int32]) -> Text:
        _, number = np.unique(np.asarray(source.arrays["tokens"]), return_inverse=True)
        n_tokens = int(number.max()) + 1
        coded = np.flatnonzero(halves.half >= 0)
        key = halves.half[coded].astype(np.int64) * n_tokens + number[coded]
        of_token = coded[np.argsort(key, kind="stable")]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=2 * n_tokens))])
        by_half = coded[np.argsort(halves.half[coded], kind="stable")]
        return Text(
            halves.half,
            number.astype(np.int32),
            region,
            by_half.astype(np.uint32),
            offsets[[0, n_tokens, 2 * n_tokens]],
            of_token.astype(np.uint32),
            offsets,
        )


@compiled
def _step(state):  # type: ignore[no-untyped-def]
    """The next state of splitmix64 (Steele et al. 2014) and its number."""
    state += np.uint64(0x9E3779B97F4A7C15)
    mixed = state
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, mixed ^ (mixed >> np.uint64(31))


@compiled
def _below(state, n):  # type: ignore[no-untyped-def]
    """A number in [0, n)."""
    state, mixed = _step(state)
    return state, np.int64((mixed >> np.uint64(33)) % np.uint64(n))


@compiled
def _draw_strong(state, places, strength, wanted, into):  # type: ignore[no-untyped-def]
    """Positions at evenly spaced quantiles of the energy, from a random first one; all of them where there are few."""
    if places.size <= wanted:
        into[: places.size] = places
        return state, places.size
    total = np.float64(0)
    for value in strength:
        total += value
    step = total / wanted
    state, mixed = _step(state)
    mark = step * (np.float64(mixed >> np.uint64(11)) / np.float64(1 << 53))
    n, reached = 0, np.float64(0)
    for i in range(places.size):
        reached += strength[i]
        if reached > mark and n < wanted:
            into[n] = places[i]
            n += 1
            while mark < reached:
                mark += step
    return state, n


@compiled
def _keep_strongest(places, strength, into):  # type: ignore[no-untyped-def]
    """The positions of the largest strengths, largest first, the earlier of equals."""
    kept = np.zeros(into.size, np.float32)
    for i in range(places.size):
        if strength[i] > kept[-1]:
            at = into.size - 1
            while at > 0 and kept[at - 1] < strength[i]:
                kept[at], into[at] = kept[at - 1], into[at - 1]
                at -= 1
            kept[at], into[at] = strength[i], places[i]


@compiled
def draw_features(  # type: ignore[no-untyped-def]
    start,
    stop,
    features,
    seed,
    offsets,
    firing,
    scaled,
    decode,
    text,
    token_offsets,
    drawn,
    least,
    out,
    counts,
    same,
    strongest,
):
    """Fills out, counts, same and strongest (see `Windows`) for features[start:stop].

    decode [65536]: the float32 number of each float16's bits.
    """
    half, _, _, coded, coded_offsets, _ = text
    used = np.zeros(half.size, np.int32)
    for row in range(start, stop):
        feature = features[row]
        own = firing[offsets[feature] : offsets[feature + 1]]
        bits = scaled[offsets[feature] : offsets[feature + 1]]
        mark = np.int32(row + 1)
        found, held = 0, 0
        for p in own:
            used[p] = mark
            found += half[p] == 0
            held += half[p] == 1
        state = np.uint64(seed) * np.uint64(0xD1342543DE82EF95) + np.uint64(feature)
        scored = found >= least and held >= least
        for side in range(2):
            if side == 1 and not scored:
                continue
            n = 0
            places = np.empty(own.size, np.uint32)
            strength = np.empty(own.size, np.float32)
            for i in range(own.size):
                if half[own[i]] == side or (not scored and half[own[i]] >= 0):
                    places[n] = own[i]
                    strength[n] = decode[bits[i]] ** 2
                    n += 1
            if side == 0:
                _keep_strongest(places[:n], strength[:n], strongest[row])
            state, n = _draw_strong(state, places[:n], strength[:n], drawn[side, 0], out[row, side, 0])
            counts[row, side, 0] = n
            if n == 0:
                continue
            state = _draw_silent(
                state, side, mark, used, coded, coded_offsets, drawn[side, 1], out[row, side], counts[row, side]
            )
            state = _draw_neighbours(
                state,
                side,
                scored,
                mark,
                used,
                text,
                token_offsets,
                drawn[side, 2],
                out[row, side],
                counts[row, side],
                same[row],
            )


@compiled
def _draw_silent(state, side, mark, used, coded, coded_offsets, wanted, out, counts):  # type: ignore[no-untyped-def]
    first, size = coded_offsets[side], coded_offsets[side + 1] - coded_offsets[side]
    if size == 0:
        return state
    for _ in range(wanted):
        for _ in range(_TRIES):
            state, at = _below(state, size)
            p = coded[first + at]
            if used[p] != mark:
                used[p] = mark
                out[RANDOM, counts[RANDOM]] = p
                counts[RANDOM] += 1
                break
    return state


@compiled
def _draw_neighbours(  # type: ignore[no-untyped-def]
    state, side, scored, mark, used, text, token_offsets, wanted, out, counts, same
):
    half, tokens, region, _, _, of_token = text
    n_tokens = (token_offsets.size - 1) // 2
    for _ in range(wanted):
        state, at = _below(state, counts[POSITIVE])
        like = np.int64(out[POSITIVE, at])
        key = side * n_tokens + tokens[like]
        first, size = token_offsets[key], token_offsets[key + 1] - token_offsets[key]
        found = np.int64(-1)
        if size > 0:
            for _ in range(_TRIES):
                state, at = _below(state, size)
                p = np.int64(of_token[first + at])
                if used[p] != mark:
                    found = p
                    same[side] += 1
                    break
        if found < 0:
            for _ in range(_TRIES):
                state, at = _below(state, 2 * _REACH)
                p = like + at - _REACH + (1 if at >= _REACH else 0)
                if p < 0 or p >= half.size or region[p] != region[like] or used[p] == mark:
                    continue
                if half[p] == side or (not scored and half[p] >= 0):
                    found = p
                    break
        if found >= 0:
            used[found] = mark
            out[NEIGHBOUR, counts[NEIGHBOUR]] = found
            counts[NEIGHBOUR] += 1
    return state


def draw(
    source: LabelSource,
    features: NDArray[np.int64],
    text: Text,
    *,
    seed: int = 0,
    drawn: tuple[tuple[int, int, int], tuple[int, int, int]] = DRAWN,
) -> Windows:
    """The windows of `features`; those of one do not depend on which others are drawn."""
    n = features.size
    out = np.full((n, 2, 3, max(max(side) for side in drawn)), NONE, np.uint32)
    counts = np.zeros((n, 2, 3), np.int32)
    same = np.zeros((n, 2), np.int32)
    strongest = np.full((n, STRONGEST), NONE, np.uint32)
    # Half-precision numbers are read through a table of all of them: numba has no float16.
    decode = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    arrays = source.arrays
    fixed = (
        features,
        seed,
        _only_read(arrays["feature_offsets"]),
        _only_read(arrays["feature_positions"]),
        _only_read(arrays["feature_values"]).view(np.uint16),
        decode,
        (text.half, text.tokens, text.region, text.coded, text.coded_offsets, text.of_token),
        text.of_token_offsets,
        np.array(drawn, np.int64),
        LEAST_IN_A_HALF,
        out,
        counts,
        same,
        strongest,
    )
    in_ranges(lambda start, stop: draw_features(start, stop, *fixed), n, 64)
    return Windows(out, counts, same, strongest)


def _only_read(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written to, as files are mapped: one kind of array, so one compiled loop, for all of them."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
