"""The hot operations on a processor: oneDNN's product, compiled loops around it, torch's row sums.

Selection computes a chunk of pre-activations into a buffer that stays in cache and searches it there, so that the [tokens,
latents] matrix never travels to memory (T tokens, F latents, d inputs: 2·T·F·d FLOPs, 2·T·F bytes within the cache). Numbers
are compared as integers of the same bits. Biases ride in the product as more columns of its factors. Decode is `sparse`'s:
torch's bag sums run at the cache's bandwidth there. float64 goes to `sparse` where a loop is float32 only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saescope.kernels import compiled, recycling, sparse
from saescope.kernels.chunks import token_chunks
from saescope.kernels.operands import AdamStep, Decoding, Encoding, Reconstruction, Trained
from saescope.kernels.room import Room
from saescope.kernels.rounding import factors, with_room_for_rounding
from saescope.kernels.sparse import decode, latent_sum
from saescope.kernels.support import Support
from saescope.kernels.threads import in_ranges

__all__ = [
    "adam",
    "decode",
    "latent_sum",
    "name",
    "reconstruct",
    "sampled_product",
    "select_batch_topk",
    "select_threshold",
    "select_topk",
    "tangent",
    "weight_gradient",
]

name = "cpu"

_KEYS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
# One binary order of magnitude, as a difference of keys.
_HALF = {torch.bfloat16: 1 << 7, torch.float16: 1 << 10, torch.float32: 1 << 23, torch.float64: 1 << 52}
# How many tokens estimate the batch's threshold, and how many more candidates than needed it should let through.
_PROBE_TOKENS = 64
_PROBE_SURPLUS = 1.3
# Latents and tokens a thread should have before another one is worth waking.
_LEAST_ROWS = 64
# From k this near to the number of latents on, sorting out nearly all of a row is what torch's top-k does better.
_DENSE_TOPK = 2


def sampled_product(
    support: Support, left: Float[Tensor, "rows d"], right: Float[Tensor, "latents d"]
) -> Float[Tensor, "nnz"]:
    """See `reference.sampled_product`."""
    if left.dtype != torch.float32 or right.dtype != torch.float32:
        return sparse.sampled_product(support, left, right)
    out = torch.empty(support.nnz)
    given = (_array(support.pointers), _array(support.indices), _array(left), _array(right), _array(out))
    in_ranges(
        lambda start, stop: compiled.sampled_rows(start, stop, *given),
        support.n_rows,
        _LEAST_ROWS,
        pointers=support.pointers,
    )
    return out


def reconstruct(decoding: Decoding) -> Reconstruction:
    """See `reference.reconstruct`: one pass, a token at a time."""
    support, y, rest, n_levels = decoding.support, decoding.y, decoding.rest, decoding.n_levels
    if any(given.dtype != torch.float32 for given in (decoding.values, decoding.weight, rest, y)):
        return sparse.reconstruct(decoding)
    sums, slopes = recycling.take(support.n_rows, y.shape[1]), torch.empty(support.nnz)
    codes = (_array(support.pointers), _array(support.indices), _array(decoding.values), _array(decoding.weight))
    flat = (_array(rest.reshape(-1, y.shape[1])), _array(y), _array(sums), _array(slopes))

    def work(start: int, stop: int) -> NDArray[np.float64]:
        squares = np.zeros(n_levels)
        compiled.reconstructed_rows(start, stop, n_levels, *codes, *flat, squares)
        return squares

    by_token = support.pointers[::n_levels].contiguous()
    parts = in_ranges(work, y.shape[0], _LEAST_ROWS, pointers=by_token)
    return Reconstruction(sums, slopes, torch.from_numpy(np.sum(parts, axis=0)).float())


def weight_gradient(
    support: Support, values: Float[Tensor, "nnz"], rows: Float[Tensor, "rows d"]
) -> Float[Tensor, "latents d"]:
    """See `reference.weight_gradient`."""
    if values.dtype != torch.float32 or rows.dtype != torch.float32:
        return sparse.weight_gradient(support, values, rows)
    order, offsets = support.by_latent
    out = recycling.take(support.n_latents, rows.shape[1])
    given = (_array(offsets), _array(order), _array(support.rows), _array(values), _array(rows), _array(out))
    in_ranges(
        lambda start, stop: compiled.summed_rows(start, stop, *given),
        support.n_latents,
        _LEAST_ROWS,
        pointers=offsets,
    )
    return out


def select_batch_topk(pre: Encoding, count: int, *, dtype: torch.dtype | None = None) -> Support:
    """See `reference.select_batch_topk`. A floor estimated from a few tokens leaves about 1.3·count candidates; should it let
    too few through, it is lowered. Ties at the boundary go to the first."""
    if pre.n_tokens == 0 or count == 0:
        return pre.nothing()
    dtype = dtype or pre.x.dtype
    left, right = factors(pre, dtype)
    floor, drop = _probe_floor(left, right, count), _HALF[dtype]
    while True:
        found = _Found.above(left, right, floor, count)
        if floor == 0 or len(found.keys) >= count:
            break
        # Each time twice as many orders of magnitude, for every time is another product.
        floor, drop = max(0, floor - drop), 2 * drop
    surplus = len(found.keys) - count
    cut, ties = floor, 0
    if surplus > 0:
        cut = int(np.partition(found.keys, surplus)[surplus])
        ties = count - int((found.keys > cut).sum())
    pointers, indices = np.zeros(pre.n_tokens + 1, np.int64), np.empty(min(count, len(found.keys)), np.int64)
    compiled.keep_largest(found.counts, found.places, found.keys, cut, ties, pointers, indices)
    return Support(torch.from_numpy(pointers), torch.from_numpy(indices), pre.n_latents)


def select_topk(pre: Encoding, k: int, *, dtype: torch.dtype | None = None) -> Support:
    """See `reference.select_topk`. Ties at the boundary go to the lowest latents."""
    if pre.n_tokens == 0 or k == 0:
        return pre.nothing()
    if k * _DENSE_TOPK > pre.n_latents:
        return sparse.select_topk(pre, k, dtype=dtype)
    counts, places = np.empty(pre.n_tokens, np.int64), np.empty((pre.n_tokens, k), np.int32)
    left, right = factors(pre, dtype or pre.x.dtype)

    def search(first: int, keys: NDArray[Any]) -> None:
        own = slice(first, first + keys.shape[0])
        into = (counts[own], places[own])
        in_ranges(lambda start, stop: compiled.largest_of_rows(start, stop, keys, k, *into), keys.shape[0], 8)

    _for_each_chunk(left, right, search)
    pointers = np.zeros(pre.n_tokens + 1, np.int64)
    np.cumsum(counts, out=pointers[1:])
    full = pointers[-1] == places.size
    chosen = places.reshape(-1) if full else places[np.arange(k) < counts[:, None]]
    return Support(torch.from_numpy(pointers), torch.from_numpy(chosen.astype(np.int64)), pre.n_latents)


def select_threshold(
    pre: Encoding, threshold: Float[Tensor, "latents"], *, room: Room | None = None
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """See `sparse.select_threshold`, of which this is the same with the search in cache."""
    if pre.n_tokens == 0:
        return pre.nothing(), pre.x.new_zeros(0)
    threshold = threshold.clamp(min=0)
    left, right = with_room_for_rounding(pre, threshold, sparse.rough_dtype(pre))
    near = _Found.above(left, right, 0, 64 * pre.n_tokens).support(pre.n_latents)
    return sparse.settled(near, pre, threshold, sampled_product)


class _Found:
    """Keys above a floor, token by token: counts [tokens], places and keys [found]."""

    def __init__(self, n_tokens: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros(n_tokens, np.int64)
        self._places: list[NDArray[np.int32]] = []
        self._keys: list[NDArray[Any]] = []

    @classmethod
    def above(
        cls, left: Float[Tensor, "tokens d"], right: Float[Tensor, "latents d"], floor: int, about: int
    ) -> _Found:
        """Every key of left · rightᵀ above `floor`. `about`: how many are expected, which only saves memory."""
        n_tokens = left.shape[0]
        found = cls(n_tokens)
        per_token = 2 * about / n_tokens

        def search(first: int, keys: NDArray[Any]) -> None:
            counts = found.counts[first : first + keys.shape[0]]

            def part(start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[Any]]:
                room = int(per_token * (stop - start)) + keys.shape[1]
                while True:
                    places, own = np.empty(room, np.int32), np.empty(room, keys.dtype)
                    n = compiled.keys_above(start, stop, keys, floor, counts, places, own)
                    if n >= 0:
                        return places[:n].copy(), own[:n].copy()
                    room = min(4 * room, (stop - start + 1) * keys.shape[1])

            for places, own in in_ranges(part, keys.shape[0], 8):
                found._places.append(places)
                found._keys.append(own)

        _for_each_chunk(left, right, search)
        return found

    @property
    def places(self) -> NDArray[np.int32]:
        return _joined(self._places)

    @property
    def keys(self) -> NDArray[Any]:
        return _joined(self._keys)

    def support(self, n_latents: int) -> Support:
        """All of it as a pattern."""
        pointers = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=pointers[1:])
        return Support(torch.from_numpy(pointers), torch.from_numpy(self.places.astype(np.int64)), n_latents)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if len(parts) > 1:
        parts[:] = [np.concatenate(parts)]
    return parts[0]


def _for_each_chunk(
    left: Float[Tensor, "tokens d"],
    right: Float[Tensor, "latents d"],
    search: Callable[[int, NDArray[Any]], None],
) -> None:
    """`search(first token, keys)` over left · rightᵀ, a chunk of tokens at a time, in a buffer that is used again."""
    n_tokens, n_latents = left.shape[0], right.shape[0]
    chunks = token_chunks(n_tokens, n_latents, left.dtype, left.device)
    buffer = _buffer(min(n_tokens, chunks.step) * n_latents, left.dtype)
    for start in chunks:
        piece = left[start : start + chunks.step]
        pre = buffer[: piece.shape[0] * n_latents].view(piece.shape[0], n_latents)
        torch.mm(piece, right.T, out=pre)
        search(start, pre.view(_KEYS[pre.dtype]).numpy())


_kept = threading.local()


def _buffer(n: int, dtype: torch.dtype) -> Tensor:
    """Scratch memory of this thread, as large as it was ever asked for: fresh memory costs a fault a page."""
    held: dict[torch.dtype, Tensor] = _kept.__dict__.setdefault("buffers", {})
    if dtype not in held or held[dtype].numel() < n:
        held[dtype] = torch.empty(n, dtype=dtype)
    return held[dtype]


def _probe_floor(left: Float[Tensor, "tokens d"], right: Float[Tensor, "latents d"], count: int) -> int:
    """A key that somewhat more than `count` of the batch's should exceed, from evenly spaced tokens."""
    n_tokens = left.shape[0]
    picked = torch.linspace(0, n_tokens - 1, min(n_tokens, _PROBE_TOKENS)).long()
    keys = (left[picked] @ right.T).view(_KEYS[left.dtype]).numpy().reshape(-1)
    wanted = int(count / n_tokens * picked.numel() * _PROBE_SURPLUS) + 1
    if wanted >= keys.size:
        return 0
    return max(0, int(np.partition(keys, keys.size - wanted)[keys.size - wanted]) - 1)


def tangent(
    weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], unit_rows: bool
) -> tuple[Float[Tensor, "rows"] | None, Float[Tensor, ""]]:
    """See `reference.tangent`."""
    if weight.dtype != torch.float32:
        return sparse.tangent(weight, grad, unit_rows)
    along = torch.empty(weight.shape[0])
    given = (_array(weight), _array(grad), unit_rows, _array(along))
    squares = in_ranges(lambda start, stop: compiled.gradient_along(start, stop, *given), weight.shape[0], _LEAST_ROWS)
    return along if unit_rows else None, torch.tensor(sum(squares), dtype=torch.float32)


def adam(trained: Trained, along: Float[Tensor, "rows"] | None, scale: Float[Tensor, ""], step: AdamStep) -> None:
    """See `reference.adam`: one pass over the four arrays."""
    if trained.weight.dtype != torch.float32:
        sparse.adam(trained, along, scale, step)
        return
    n_rows = trained.weight.shape[0]
    inner = np.zeros(n_rows, np.float32) if along is None else _array(along)
    w, g, m, v = _array(trained.weight), _array(trained.grad), _array(trained.mean), _array(trained.square)
    # Without a follower its place is taken by something that is not looked at.
    follower, follows = (w, False) if trained.follower is None else (_array(trained.follower), True)
    by, rate, root = float(scale), step.rate / step.correction1, step.correction2**0.5

    def work(start: int, stop: int) -> None:
        sphere = along is not None
        of_adam = (by, rate, step.beta1, step.beta2, root, step.eps)
        compiled.adam_rows(start, stop, w, g, m, v, inner, *of_adam, sphere, follower, follows, trained.share)

    in_ranges(work, n_rows, _LEAST_ROWS)


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().contiguous().numpy()
    return array
