"""A map of all features: two numbers each, near features near.

The method is UMAP's (McInnes, Healy & Melville, 2018): a weighted graph of nearest neighbours, in which every point's own
distances set its scale; points start at their first two principal components; edges pull their ends together and random
others push apart, by stochastic gradient descent on the cross-entropy between the graph and 1 / (1 + a·d^2b) in the plane.
Distances on such a map mean little beyond who is next to whom; nor do areas.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saescope.features.weights.best import float64_device
from saescope.features.weights.nearest import Nearest
from saescope.kernels.compiling import compiled

# The curve 1 / (1 + a·d^2b) that fits a plateau to d = 0.1 and exponential decay after it.
A, B = 1.577, 0.895
N_PUSHES = 5
# Point updates of a layout, which decide its time: about two hundred passes of 10,000 features, fewer of more.
_UPDATES = 1.5e8
_MOST_PASSES, _LEAST_PASSES = 300, 30
_START_EXTENT = 10.0
_ITERATIONS = 64


@torch.no_grad()
def layout(rows: Float[Tensor, "n d"], nearest: Nearest | None, seed: int = 0) -> NDArray[np.float32]:
    """Coordinates [n, 2] in [-1, 1], the same for the same arguments.

    rows: the decoder's, for the start. nearest: of the same rows; without it (too many latents to compare) the map is the
    principal components alone. Rows of zeros lie where nothing pulls them, near the middle.
    """
    place = _principal_plane(rows)
    n = place.shape[0]
    if nearest is not None and n > 2:
        heads, tails, weights = fuzzy_graph(nearest)
        if heads.size:
            per_pass = float(weights.sum() / weights.max()) * 2 * (1 + N_PUSHES)
            passes = int(min(_MOST_PASSES, max(_LEAST_PASSES, _UPDATES / max(per_pass, 1.0))))
            generator = np.random.default_rng(seed)
            # Points that start in one place would stay together, for nothing distinguishes them.
            place += generator.normal(0, 1e-3, place.shape).astype(np.float32)
            _settle(place, heads, tails, (weights / weights.max()).astype(np.float32), passes, seed)
    low, high = place.min(0), place.max(0)
    # One scale for both axes, or the map would be stretched.
    half = max(float((high - low).max()) / 2, 1e-12)
    scaled: NDArray[np.float32] = np.clip((place - (low + high) / 2) / half, -1, 1).astype(np.float32)
    return scaled


def fuzzy_graph(nearest: Nearest) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Edges (head < tail, each pair once) and weights in (0, 1].

    From i to its neighbour j: exp(-(d_ij - d_i1) / s_i), d = 1 - cosine, d_i1 the nearest's, and s_i such that i's weights sum
    to log2 of the number of its neighbours. Both directions, p and q, become p + q - p·q.
    """
    index, distance = nearest.index, 1.0 - nearest.cosine.astype(np.float64)
    n, k = index.shape
    there = index >= 0
    own = _memberships(distance, there)
    head = np.repeat(np.arange(n, dtype=np.int64), k)[there.ravel()]
    tail, weight = index.ravel()[there.ravel()].astype(np.int64), own.ravel()[there.ravel()]
    key = np.minimum(head, tail) * n + np.maximum(head, tail)
    order = np.argsort(key, kind="stable")
    key, weight = key[order], weight[order]
    first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if key.size else np.zeros(0, np.int64)
    # At most two entries a pair: one from either end.
    total = np.add.reduceat(weight, first) if first.size else weight
    product = (
        np.where(np.diff(np.append(first, key.size)) == 2, np.multiply.reduceat(weight, first), 0) if first.size else 0
    )
    key = key[first]
    return key // n, key % n, (total - product).astype(np.float32)


def _memberships(distance: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    beyond = np.where(there, distance - np.where(there, distance, np.inf).min(1, keepdims=True, initial=2.0), 0)
    target = np.log2(np.maximum(there.sum(1), 2))
    low, high = np.zeros(len(distance)), np.full(len(distance), 64.0)
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        total = (np.exp(-beyond / np.maximum(middle, 1e-12)[:, None]) * there).sum(1)
        low, high = np.where(total < target, middle, low), np.where(total < target, high, middle)
    weight: NDArray[np.float64] = np.exp(-beyond / np.maximum(high, 1e-12)[:, None]) * there
    return weight


def _principal_plane(rows: Float[Tensor, "n d"]) -> NDArray[np.float32]:
    """The unit rows' first two principal components, scaled to the extent that a layout starts with."""
    norm = rows.detach().float().norm(dim=1, keepdim=True)
    unit = torch.where(norm > 0, rows.detach().float() / norm.clamp(min=1e-30), 0.0)
    centred = unit - unit.mean(0)
    covariance = (centred.T @ centred).to(float64_device(centred.device)).double()
    vectors = torch.linalg.eigh(covariance)[1][:, -2:].flip(1)
    # An eigenvector's sign is arbitrary: its largest component is positive.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    place = (centred @ vectors.float().to(centred.device)).cpu().numpy()
    if place.shape[1] < 2:
        place = np.concatenate([place, np.zeros_like(place)], 1)
    extent = float(np.abs(place).max(initial=0.0))
    scaled: NDArray[np.float32] = (place * (_START_EXTENT / max(extent, 1e-12))).astype(np.float32)
    return scaled


def _settle(
    place: NDArray[np.float32],
    heads: NDArray[np.int64],
    tails: NDArray[np.int64],
    weights: NDArray[np.float32],
    passes: int,
    seed: int,
) -> None:
    order = np.random.default_rng(seed + 1).permutation(heads.size)
    _descend(place, heads[order], tails[order], weights[order], passes, np.uint64(2 * seed + 1))


@compiled
def _descend(
    place: NDArray[np.float32],
    heads: NDArray[np.int64],
    tails: NDArray[np.int64],
    weights: NDArray[np.float32],
    passes: int,
    state: np.uint64,
) -> None:
    """An edge of weight w is drawn in every 1/w-th pass; both its ends move, and each is pushed by random others."""
    n = place.shape[0]
    a, b = np.float32(A), np.float32(B)
    due = np.empty(heads.size, np.float32)
    for edge in range(heads.size):
        due[edge] = np.float32(1) / weights[edge]
    for turn in range(passes):
        rate = np.float32(1) - np.float32(turn) / np.float32(passes)
        for edge in range(heads.size):
            if due[edge] > turn + 1:
                continue
            due[edge] += np.float32(1) / weights[edge]
            i, j = heads[edge], tails[edge]
            dx, dy = place[i, 0] - place[j, 0], place[i, 1] - place[j, 1]
            square = dx * dx + dy * dy
            if square > 0:
                power = square**b
                pull = np.float32(-2) * a * b * power / (square * (np.float32(1) + a * power))
                x = min(np.float32(4), max(np.float32(-4), pull * dx)) * rate
                y = min(np.float32(4), max(np.float32(-4), pull * dy)) * rate
                place[i, 0] += x
                place[i, 1] += y
                place[j, 0] -= x
                place[j, 1] -= y
            for end in range(2):
                here = i if end == 0 else j
                for _ in range(N_PUSHES):
                    # A 64-bit linear congruential step (Knuth's MMIX constants); its high bits choose.
                    state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                    other = np.int64((state >> np.uint64(33)) % np.uint64(n))
                    if other == here:
                        continue
                    dx, dy = place[here, 0] - place[other, 0], place[here, 1] - place[other, 1]
                    square = dx * dx + dy * dy
                    push = np.float32(2) * b / ((np.float32(0.001) + square) * (np.float32(1) + a * square**b))
                    place[here, 0] += min(np.float32(4), max(np.float32(-4), push * dx)) * rate
                    place[here, 1] += min(np.float32(4), max(np.float32(-4), push * dy)) * rate
