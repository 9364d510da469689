"""Loops that torch has no operator for, compiled by numba: float32 rows, integer keys, no Python objects.

Each works on a range [start, stop) so that `threads.in_ranges` can share it out, and releases the GIL. Keys are floating-point
numbers read as integers of the same bits: positive ones order as their numbers do, and negative ones lie below zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from saescope.kernels.compiling import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Keys = NDArray[Any]

# How many keys are tested at once before any of them is looked at by itself.
_BLOCK = 32


@compiled
def sampled_rows(
    start: int, stop: int, pointers: Ints, indices: Ints, left: Floats, right: Floats, out: Floats
) -> None:
    """out[j] = left[row of j] · right[indices[j]]."""
    width = left.shape[1]
    for row in range(start, stop):
        own = left[row]
        for entry in range(pointers[row], pointers[row + 1]):
            other = right[indices[entry]]
            total = np.float32(0)
            for i in range(width):
                total += own[i] * other[i]
            out[entry] = total


@compiled
def reconstructed_rows(
    start: int,
    stop: int,
    n_levels: int,
    pointers: Ints,
    indices: Ints,
    values: Floats,
    weight: Floats,
    rest: Floats,
    y: Floats,
    sums: Floats,
    slopes: Floats,
    squares: NDArray[np.float64],
) -> None:
    """`reference.reconstruct` of a range of tokens, a token at a time: its rows of `weight` are read twice, the second time
    from cache. rest [1 or tokens, d]. Adds to squares [levels]."""
    width = y.shape[1]
    one_rest = rest.shape[0] == 1
    for token in range(start, stop):
        target, base = y[token], rest[0 if one_rest else token]
        first = token * n_levels
        for row in range(first, first + n_levels):
            total = sums[row]
            if row == first:
                for i in range(width):
                    total[i] = target[i] - base[i]
            else:
                before = sums[row - 1]
                for i in range(width):
                    total[i] = before[i]
            j, end = pointers[row], pointers[row + 1]
            while j + 4 <= end:
                p, q, r, s = values[j], values[j + 1], values[j + 2], values[j + 3]
                t, u = weight[indices[j]], weight[indices[j + 1]]
                v, w = weight[indices[j + 2]], weight[indices[j + 3]]
                for i in range(width):
                    total[i] -= (p * t[i] + q * u[i]) + (r * v[i] + s * w[i])
                j += 4
            while j < end:
                p, t = values[j], weight[indices[j]]
                for i in range(width):
                    total[i] -= p * t[i]
                j += 1
            square = np.float32(0)
            for i in range(width):
                square += total[i] * total[i]
            squares[row - first] += square
        for row in range(first + n_levels - 2, first - 1, -1):
            total, after = sums[row], sums[row + 1]
            for i in range(width):
                total[i] += after[i]
        for row in range(first, first + n_levels):
            total = sums[row]
            for j in range(pointers[row], pointers[row + 1]):
                t = weight[indices[j]]
                slope = np.float32(0)
                for i in range(width):
                    slope += total[i] * t[i]
                slopes[j] = slope


@compiled
def summed_rows(
    start: int, stop: int, pointers: Ints, members: Ints, rows: Ints, weights: Floats, table: Floats, out: Floats
) -> None:
    """out[bag] = Σ over the bag's members j of weights[j] · table[rows[j]]."""
    width = table.shape[1]
    for bag in range(start, stop):
        total = out[bag]
        for i in range(width):
            total[i] = 0
        j, end = pointers[bag], pointers[bag + 1]
        # Four at a time: a quarter of the traffic to `total`, and four rows under way from memory at once.
        while j + 4 <= end:
            a, b, c, d = members[j], members[j + 1], members[j + 2], members[j + 3]
            p, q, r, s = weights[a], weights[b], weights[c], weights[d]
            t, u, v, w = table[rows[a]], table[rows[b]], table[rows[c]], table[rows[d]]
            for i in range(width):
                total[i] += (p * t[i] + q * u[i]) + (r * v[i] + s * w[i])
            j += 4
        while j < end:
            p, t = weights[members[j]], table[rows[members[j]]]
            for i in range(width):
                total[i] += p * t[i]
            j += 1


@compiled
def keys_above(start: int, stop: int, keys: Keys, floor: int, counts: Ints, index: NDArray[np.int32], key: Keys) -> int:
    """Where keys [rows, n] exceed `floor`, row by row: their places and themselves, and how many each row has.

    Returns how many were found, or -1 when `index` and `key` are too short for them.
    """
    n, found, room = keys.shape[1], 0, index.shape[0]
    for row in range(start, stop):
        if found + n > room:
            return -1
        own, places = keys[row], index[found:]
        here = _places_above(own, floor, places)
        for i in range(here):
            key[found + i] = own[places[i]]
        counts[row] = here
        found += here
    return found


@compiled
def _places_above(own: Keys, floor: int, places: NDArray[np.int32]) -> int:
    """Where a row's keys exceed `floor`, ascending, into `places`, which has room for all of them. Returns how many."""
    n, found = own.shape[0], 0
    whole = n - n % _BLOCK
    for block in range(0, whole, _BLOCK):
        hits = 0
        for i in range(block, block + _BLOCK):
            hits += own[i] > floor
        if hits:
            # Written first, counted afterwards: no branch to mispredict.
            for i in range(block, block + _BLOCK):
                places[found] = i
                found += own[i] > floor
    for i in range(whole, n):
        places[found] = i
        found += own[i] > floor
    return found


@compiled
def largest_of_rows(start: int, stop: int, keys: Keys, k: int, counts: Ints, index: NDArray[np.int32]) -> None:
    """The k largest positive keys of each row, places ascending, into index[row, :counts[row]]. Meant for k well below n.

    The k-th largest of the maxima of disjoint parts is at most the row's k-th largest: only keys from there on are looked
    at. Of equal keys at the boundary the first ones win.
    """
    n = keys.shape[1]
    # Parts are the places congruent modulo their number, so that all maxima grow side by side in vector registers.
    n_parts = min(n, max(4 * k, n // _BLOCK))
    maxima, near, place = np.empty(n_parts, keys.dtype), np.empty(n, keys.dtype), np.empty(n, np.int32)
    for row in range(start, stop):
        own = keys[row]
        maxima[:] = own[:n_parts]
        full = n - n % n_parts
        for part in range(n_parts, full, n_parts):
            np.maximum(maxima, own[part : part + n_parts], maxima)
        np.maximum(maxima[: n - full], own[full:], maxima[: n - full])
        floor = max(0, (_kth_largest(maxima, n_parts, k) if n_parts >= k else 1) - 1)
        found = _places_above(own, floor, place)
        cut, ties = floor, 0
        if found > k:
            for i in range(found):
                near[i] = own[place[i]]
            cut = _kth_largest(near, found, k)
            ties = k
            for i in range(found):
                ties -= near[i] > cut
        taken = 0
        for i in range(found):
            value = own[place[i]]
            tie = value == cut and ties > 0
            if value > cut or tie:
                index[row, taken] = place[i]
                taken += 1
                ties -= tie
        counts[row] = taken


@compiled
def _kth_largest(values: Keys, n: int, k: int) -> Any:
    """The k-th largest of the first n values, which are reordered (Hoare's selection)."""
    low, high, place = 0, n - 1, k - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return values[place]


@compiled
def keep_largest(
    counts: Ints, index: NDArray[np.int32], key: Keys, cut: int, ties: int, pointers: Ints, out: Ints
) -> None:
    """Of found entries, in order, those with key > cut and the first `ties` that equal it, as compressed rows."""
    found, taken = 0, 0
    for row in range(counts.shape[0]):
        for entry in range(found, found + counts[row]):
            here = key[entry] > cut
            if not here and ties > 0 and key[entry] == cut:
                here = True
                ties -= 1
            if here:
                out[taken] = index[entry]
                taken += 1
        found += counts[row]
        pointers[row + 1] = taken


@compiled
def gradient_along(start: int, stop: int, weight: Floats, grad: Floats, on_sphere: bool, along: Floats) -> Any:
    """along[row] = grad · weight where rows are unit vectors, else 0. Returns the squared norm of what is across."""
    total: Any = 0.0
    for row in range(start, stop):
        w, g = weight[row], grad[row]
        square, inner = np.float32(0), np.float32(0)
        for i in range(w.shape[0]):
            square += g[i] * g[i]
        if on_sphere:
            for i in range(w.shape[0]):
                inner += g[i] * w[i]
        along[row] = inner
        across = square - inner * inner
        # Not max(0, across), which would make 0 of what is no number.
        total += np.float32(0) if across < 0 else across
    return total


@compiled
def adam_rows(
    start: int,
    stop: int,
    weight: Floats,
    grad: Floats,
    mean: Floats,
    square: Floats,
    along: Floats,
    scale: float,
    rate: float,
    beta1: float,
    beta2: float,
    root: float,
    eps: float,
    on_sphere: bool,
    follower: Floats,
    follows: bool,
    share: float,
) -> None:
    """One Adam step on rows: gradient across the row times `scale`, moments, weight, and its length where it is a unit vector;
    the `follower`'s row, if it follows, makes a share of the move.

    rate: the learning rate over 1 - beta1^t; root: sqrt(1 - beta2^t).
    """
    # All of it in float32: one float64 among them would halve the width of the vectors.
    by, lr, add = np.float32(scale), np.float32(rate), np.float32(eps)
    b1, b2, over = np.float32(beta1), np.float32(beta2), np.float32(1 / root)
    a1, a2, part = np.float32(1 - beta1), np.float32(1 - beta2), np.float32(share)
    for row in range(start, stop):
        f = follower[row]
        if follows:
            for i in range(f.shape[0]):
                f[i] -= part * weight[row, i]
        w, g, m, v, inner = weight[row], grad[row], mean[row], square[row], along[row]
        length = np.float32(0)
        for i in range(w.shape[0]):
            here = (g[i] - inner * w[i]) * by
            m[i] = b1 * m[i] + a1 * here
            v[i] = b2 * v[i] + a2 * here * here
            w[i] -= lr * m[i] / (np.sqrt(v[i]) * over + add)
            length += w[i] * w[i]
        if on_sphere:
            shrink = np.float32(1) / max(np.float32(1e-8), np.sqrt(length))
            for i in range(w.shape[0]):
                w[i] *= shrink
        if follows:
            for i in range(w.shape[0]):
                f[i] += part * w[i]
