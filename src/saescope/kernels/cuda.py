"""The hot operations for NVIDIA GPUs: Triton kernels for the sparse products, torch (cuBLAS) for the dense one.

No operation adds by atomics, so same inputs give same bits, and nothing but `select_threshold` without a `room` makes the host
wait for the device. Sums are taken in float32, in float64 for float64 inputs.

Rooflines follow from these counts, with T rows (tokens), F latents, d inputs, n = nnz and e bytes per number:

    operation         FLOPs    bytes gathered      bytes that must come from memory at least
    decode            2·n·d    n·d·e + n·(8 + e)   min(n, F)·d·e + n·(8 + e) + T·d·e
    sampled_product   2·n·d    n·d·e + n·8         min(n, F)·d·e + n·(8 + e) + T·d·e
    weight_gradient   2·n·d    n·d·e + n·(8 + e)   T·d·e + 4·n·(8 + e) + F·d·e
    latent_sum        2·n      n·(8 + 2e)          4·n·(8 + e) + F·e
    selection         2·T·F·d  -                   (T + F)·d·e + T·F·e written once, then read once for its groups' largest

The first four do half a FLOP per byte gathered in float32, so caches and memory bound them: gathered bytes over L2 bandwidth
where the table fits in L2 (50 MB on an H100), over memory bandwidth where it does not. The dense product of a selection is
bound by the tensor cores.

Works on CPU tensors under Triton's interpreter (TRITON_INTERPRET=1), which is how it is tested without a GPU.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.kernels import row_update, sparse, strongest
from saescope.kernels.chunks import token_chunks
from saescope.kernels.launching import interpreted, kernels
from saescope.kernels.operands import AdamStep, Decoding, Encoding, Reconstruction, Trained
from saescope.kernels.room import Room
from saescope.kernels.rounding import with_room_for_rounding
from saescope.kernels.support import Support

name = "cuda"

# Bags longer than this are summed in pieces, each by its own program: the one latent that fires on every token would
# otherwise still be summed when all others are done.
PIECE = 512
# Numbers of a table that one program loads at once: the rows of 4 entries, of 512 columns each. On an H200, at 2,304 columns,
# that was the fastest or within a tenth of it for every sum; programs come block by block of columns, so that a block of
# 16,384 tokens' rows stays in the cache.
_TILE = 2048
_WIDEST, _MOST_ENTRIES = 512, 32
# Pre-activations that a program looks at at once.
_SCANNED = 1024


@cache
def lacking() -> str | None:
    """What is missing for these kernels to run, None if nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "Triton (pip install triton)"
    if not torch.cuda.is_available() and not interpreted():
        return "an NVIDIA GPU that torch sees"
    return None


def available() -> bool:
    """Whether these kernels can run here: Triton and a GPU, or Triton and its interpreter."""
    return lacking() is None


def decode(
    support: Support, values: Float[Tensor, "nnz"], weight: Float[Tensor, "latents d"]
) -> Float[Tensor, "rows d"]:
    """See `reference.decode`."""
    return _sum_rows(support.indices, values, weight, support.pointers)


def weight_gradient(
    support: Support, values: Float[Tensor, "nnz"], rows: Float[Tensor, "rows d"]
) -> Float[Tensor, "latents d"]:
    """See `reference.weight_gradient`. The same sum as `decode`, on the transposed pattern."""
    order, offsets = support.by_latent
    return _sum_rows(support.rows[order], values[order], rows, offsets)


def reconstruct(decoding: Decoding) -> Reconstruction:
    """See `reference.reconstruct`."""
    return sparse.reconstruct(decoding, product=sampled_product, decode_by=decode)


def latent_sum(support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "latents"]:
    """See `reference.latent_sum`. The weight gradient of rows that are all [1]."""
    return weight_gradient(support, values, values.new_ones(support.n_rows, 1)).squeeze(1)


def sampled_product(
    support: Support, left: Float[Tensor, "rows d"], right: Float[Tensor, "latents d"]
) -> Float[Tensor, "nnz"]:
    """See `reference.sampled_product`."""
    left, right = left.contiguous(), right.contiguous()
    out = torch.empty(support.nnz, dtype=_sum_dtype(left), device=left.device)
    if support.nnz == 0:
        return out.to(left.dtype)
    slots = _slots(support.nnz)
    with torch.cuda.device_of(out):
        kernels().dot_rows[(slots + support.n_rows,)](
            support.indices, left, right, support.pointers, out, support.n_rows, slots, **_tiling(left)
        )
    return out.to(left.dtype)


def _sum_rows(
    members: Int[Tensor, "nnz"],
    weights: Float[Tensor, "nnz"],
    table: Float[Tensor, "rows d"],
    offsets: Int[Tensor, "bags_plus_one"],
) -> Float[Tensor, "bags d"]:
    """Each bag's Σ weights · table[members]."""
    n_bags, width, nnz = offsets.numel() - 1, table.shape[1], members.numel()
    if nnz == 0:
        return table.new_zeros(n_bags, width)
    table, weights = table.contiguous(), weights.contiguous()
    tiling, slots = _tiling(table), _slots(nnz)
    sum_in = _sum_dtype(table)
    out = torch.empty(n_bags, width, dtype=sum_in, device=table.device)
    partial = torch.empty(slots, width, dtype=sum_in, device=table.device)
    blocks = -(-width // tiling["BLOCK"])
    with torch.cuda.device_of(out):
        kernels().sum_rows[(slots + n_bags, blocks)](
            members, weights, table, offsets, out, partial, n_bags, slots, **tiling
        )
        if slots:
            kernels().add_later_pieces[(slots, blocks)](offsets, out, partial, n_bags, slots, **tiling)
    return out.to(table.dtype)


def _sum_dtype(table: Float[Tensor, "rows d"]) -> torch.dtype:
    return torch.float64 if table.dtype == torch.float64 else torch.float32


def _slots(nnz: int) -> int:
    """How many pieces after their bag's first there can be, whatever the bags' lengths."""
    return (nnz - 1) // PIECE


def _tiling(table: Float[Tensor, "rows d"]) -> dict[str, Any]:
    """The compile-time parameters of a kernel over rows like these."""
    import triton.language as tl

    width = table.shape[1]
    block = min(_WIDEST, 1 << (width - 1).bit_length())
    entries = min(_MOST_ENTRIES, _TILE // block)
    return {
        "D": width,
        "PIECE": PIECE,
        "ENTRIES": entries,
        "BLOCK": block,
        "SUM_IN": tl.float64 if _sum_dtype(table) == torch.float64 else tl.float32,
        "num_warps": 4 if block * entries > 1024 else 1,
        # Said because Triton's default changes between versions.
        "enable_fp_fusion": True,
    }


def select_batch_topk(pre: Encoding, count: int, *, dtype: torch.dtype | None = None) -> Support:
    """As `reference.select_batch_topk`, but always min(count, tokens · latents) entries, so that the host need not wait to
    learn how many there are. Where fewer are positive, the largest of the others fill up: callers rectify values, so such
    an entry carries zero and no gradient.
    """
    count = min(count, pre.n_tokens * pre.n_latents)
    if count == 0:
        return pre.nothing()
    pre = pre.to(dtype)
    values, positions = pre.x.new_empty(0), torch.empty(0, dtype=torch.int64, device=pre.device)
    for start, dense in pre.chunks():
        found, places = strongest.largest(dense, min(count, dense.numel()))
        # The strongest so far, over which a second top-k is cheap.
        values = torch.cat([values, found])
        positions = torch.cat([positions, places + start * pre.n_latents])
        if values.numel() > count:
            values, kept = values.topk(count, sorted=False)
            positions = positions[kept]
    return Support.from_flat(positions.sort().values, pre.n_tokens, pre.n_latents)


def select_topk(pre: Encoding, k: int, *, dtype: torch.dtype | None = None) -> Support:
    """As `reference.select_topk`, but always min(k, latents) entries per token; see `select_batch_topk`."""
    k = min(k, pre.n_latents)
    if pre.n_tokens == 0 or k == 0:
        return pre.nothing()
    indices = torch.cat([strongest.largest_of_each_row(dense, k) for _, dense in pre.to(dtype).chunks()])
    pointers = torch.arange(0, (pre.n_tokens + 1) * k, k, device=pre.device)
    return Support(pointers, indices.flatten(), pre.n_latents)


def select_threshold(
    pre: Encoding, threshold: Float[Tensor, "latents"], *, room: Room | None = None
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """See `reference.select_threshold`, and `sparse.select_threshold` for how.

    How many entries there are only the device knows. Without `room` the host waits for that, once per chunk of tokens and once
    at the end. With it, there are as many entries as it has place for: what fills up is in the last token's row, anywhere,
    and what does not fit is left out.
    """
    places = None if room is None or pre.n_tokens == 0 else room.places()
    if room is None or places is None:
        return sparse.select_threshold(pre, threshold, room=room, product=sampled_product)
    threshold = threshold.clamp(min=0)
    near, n_near = _near(pre, threshold, places.near)
    exact = sampled_product(near, pre.x, pre.weight) + pre.bias[near.indices]
    chosen = (exact > threshold[near.indices]) & (torch.arange(places.near, device=pre.device) < n_near)
    # Those that are not chosen go to one more slot, which is cut off.
    rank = chosen.cumsum(0)
    slot = torch.where(chosen, rank - 1, places.chosen).clamp(max=places.chosen)
    indices = _filling(places.chosen + 1, pre).scatter_(0, slot, near.indices)[:-1]
    values = exact.new_zeros(places.chosen + 1).scatter_(0, slot, exact)[:-1]
    before = torch.cat([rank.new_zeros(1), rank])
    room.tell(torch.stack([n_near, rank[-1]]), places)
    return Support(_cut(before[near.pointers], places.chosen), indices, pre.n_latents), values


def _near(pre: Encoding, threshold: Float[Tensor, "latents"], place: int) -> tuple[Support, Int[Tensor, ""]]:
    """The first `place` entries that could be above their thresholds, filled up, and how many there are in all."""
    left, right = with_room_for_rounding(pre, threshold, sparse.rough_dtype(pre))
    indices = _filling(place, pre)
    pointers = torch.zeros(pre.n_tokens + 1, dtype=torch.int64, device=pre.device)
    chunks = token_chunks(pre.n_tokens, pre.n_latents, left.dtype, pre.device)
    for start in chunks:
        dense = left[start : start + chunks.step] @ right.T
        _collect(dense, pointers[start : start + dense.shape[0] + 1], indices)
    return Support(_cut(pointers, place), indices, pre.n_latents), pointers[-1]


def _filling(place: int, pre: Encoding) -> Int[Tensor, "place"]:
    """Latents for entries that only fill up: all in turn, as no sum over one latent should be of all of them."""
    return torch.arange(place, device=pre.device) % pre.n_latents


def _cut(pointers: Int[Tensor, "rows_plus_one"], place: int) -> Int[Tensor, "rows_plus_one"]:
    """Rows of the first `place` entries, what fills up in the last."""
    cut = pointers.clamp(max=place)
    cut[-1] = place
    return cut


def _collect(
    dense: Float[Tensor, "chunk latents"], pointers: Int[Tensor, "chunk_plus_one"], indices: Int[Tensor, "place"]
) -> None:
    """Write the latents above zero of each token behind those of the token before, as far as `indices` goes. The first of
    `pointers` says where to begin; the others are set."""
    n_tokens, n_latents = dense.shape
    with torch.cuda.device_of(dense):
        kernels().count_positive[(n_tokens,)](dense, pointers[1:], n_latents, BLOCK=_SCANNED)
        pointers.cumsum_(0)
        kernels().place_positive[(n_tokens,)](dense, pointers, indices, n_latents, indices.numel(), BLOCK=_SCANNED)


def tangent(
    weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], unit_rows: bool
) -> tuple[Float[Tensor, "rows"] | None, Float[Tensor, ""]]:
    """See `reference.tangent`."""
    if not row_update.fits(weight):
        return sparse.tangent(weight, grad, unit_rows)
    along, square = row_update.along_and_square(weight, grad, unit_rows)
    return along if unit_rows else None, square


def adam(trained: Trained, along: Float[Tensor, "rows"] | None, scale: Float[Tensor, ""], step: AdamStep) -> None:
    """See `reference.adam`."""
    update = row_update.update if row_update.fits(trained.weight) else sparse.adam
    update(trained, along, scale, step)
