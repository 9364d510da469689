"""The hot operations on plain torch operators, without a dense [tokens, latents] matrix in float32.

Bytes and FLOPs (T tokens, F latents, d inputs, n = nnz): selection costs 2·T·F·d FLOPs, the one dense product that an
exact method needs; the rest moves about 4·n·d bytes each. `embedding_bag` sums weighted rows of a table in parallel over
bags, so it serves decode (bags = tokens, table = decoder) and, on the transposed support, the weight gradients (bags =
latents, table = the tokens' rows). Every bag is summed by one thread in order, so results do not depend on scheduling.

Selection may run in bfloat16 (`dtype`): the chosen *support* then differs from the reference's only where
pre-activations lie within bfloat16 rounding of the boundary; values are always recomputed by `sampled_product`.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from saescope.kernels.support import Support
from saescope.lm import has_native_bf16

name = "sparse"

# torch says so once per process; what is used of it is tested against the dense reference.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

# Selection never holds more than this many pre-activations at once.
PREACTIVATION_BYTES = 256 * 2**20
# Elements gathered at once where sampled_product has no sparse operator to call.
_GATHER_ELEMENTS = 2**22
# How many tokens estimate the batch's threshold, and how many more candidates than needed it should let through.
_PROBE_TOKENS = 64
_PROBE_SURPLUS = 1.3


def decode(
    support: Support, values: Float[Tensor, "nnz"], weight: Float[Tensor, "latents d"]
) -> Float[Tensor, "rows d"]:
    """See `reference.decode`."""
    return _bag_sum(support.indices, weight, support.pointers, values)


def weight_gradient(
    support: Support, values: Float[Tensor, "nnz"], rows: Float[Tensor, "rows d"]
) -> Float[Tensor, "latents d"]:
    """See `reference.weight_gradient`."""
    order, offsets = support.by_latent
    return _bag_sum(support.rows[order], rows, offsets, values[order])


def latent_sum(support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "latents"]:
    """See `reference.latent_sum`."""
    if values.device.type == "cpu":
        return torch.zeros(support.n_latents, dtype=values.dtype).index_add_(0, support.indices, values)
    # On an accelerator index_add_ adds in any order; a segment sum over the latent order does not.
    order, offsets = support.by_latent
    return torch.segment_reduce(values[order], "sum", offsets=offsets, initial=0.0)


def sampled_product(
    support: Support, left: Float[Tensor, "rows d"], right: Float[Tensor, "latents d"]
) -> Float[Tensor, "nnz"]:
    """See `reference.sampled_product`."""
    if support.nnz == 0:
        return left.new_zeros(0)
    if left.device.type == "mps" or left.dtype not in (torch.float32, torch.float64):
        return _sampled_by_gather(support, left, right)
    pattern = torch.sparse_csr_tensor(
        support.pointers,
        support.indices,
        left.new_zeros(support.nnz),
        size=(support.n_rows, support.n_latents),
        check_invariants=False,
    )
    product: Tensor = torch.sparse.sampled_addmm(pattern, left, right.t(), beta=0.0)
    return product.values()


def _sampled_by_gather(
    support: Support, left: Float[Tensor, "rows d"], right: Float[Tensor, "latents d"]
) -> Float[Tensor, "nnz"]:
    out = left.new_empty(support.nnz)
    step = max(1, _GATHER_ELEMENTS // max(1, left.shape[1]))
    for start in range(0, support.nnz, step):
        piece = slice(start, start + step)
        out[piece] = (left[support.rows[piece]] * right[support.indices[piece]]).sum(1)
    return out


def _bag_sum(
    members: Int[Tensor, "nnz"],
    table: Float[Tensor, "rows d"],
    offsets: Int[Tensor, "bags_plus_one"],
    weights: Float[Tensor, "nnz"],
) -> Float[Tensor, "bags d"]:
    if members.numel() == 0:
        return table.new_zeros(offsets.numel() - 1, table.shape[1])
    return F.embedding_bag(members, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _chunks(n_tokens: int, n_latents: int, dtype: torch.dtype) -> range:
    per_token = max(1, n_latents * dtype.itemsize)
    return range(0, n_tokens, max(1, PREACTIVATION_BYTES // per_token))


def _above(pre: Float[Tensor, "tokens latents"], floor: float) -> Int[Tensor, "found"]:
    """Flat positions of the entries above `floor` (which is at least zero)."""
    flat = pre.reshape(-1)
    if pre.device.type != "cpu":
        return (flat > floor).nonzero().squeeze(1)
    if pre.dtype == torch.bfloat16:
        # Positive bfloat16 numbers order as their bit patterns do, and numpy scans int16 many times faster than
        # torch's nonzero walks a mask. The floor is rounded down so that nothing above it is lost.
        bits = int(torch.tensor(floor, dtype=torch.float32).view(torch.int32)) >> 16
        found = (flat.view(torch.int16).numpy() > bits).nonzero()[0]
    else:
        found = (flat.numpy() > floor).nonzero()[0]
    return torch.from_numpy(found)


def _probe_floor(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    count: int,
) -> float:
    """A value that somewhat more than `count` of the batch's pre-activations should exceed, from evenly spaced tokens."""
    n_tokens = x.shape[0]
    picked = torch.linspace(0, n_tokens - 1, min(n_tokens, _PROBE_TOKENS), device=x.device).long()
    sample = F.linear(x[picked], weight, bias).float().reshape(-1)
    wanted = int(count / n_tokens * picked.numel() * _PROBE_SURPLUS) + 1
    if wanted >= sample.numel():
        return 0.0
    return max(0.0, float(sample.topk(wanted, sorted=False).values.min()))


def select_batch_topk(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    count: int,
    *,
    dtype: torch.dtype | None = None,
) -> Support:
    """See `reference.select_batch_topk`.

    A full top-k over T·F entries costs more than the matrix product. A floor estimated from a few tokens leaves about
    1.3·count candidates, over which the exact top-k is cheap; should the floor let too few through, it is lowered.
    """
    n_tokens, n_latents = x.shape[0], weight.shape[0]
    dtype = dtype or x.dtype
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if n_tokens == 0 or count == 0:
        return _empty(n_tokens, n_latents, x.device)
    floor = _probe_floor(x, weight, bias, count)
    chunks = _chunks(n_tokens, n_latents, dtype)
    while True:
        positions, values = [], []
        for start in chunks:
            pre = F.linear(x[start : start + chunks.step], weight, bias)
            found = _above(pre, floor)
            positions.append(found + start * n_latents)
            values.append(pre.reshape(-1)[found])
        position, value = torch.cat(positions), torch.cat(values)
        if floor == 0.0 or position.numel() >= count:
            break
        floor = floor / 2 if floor > 1e-6 else 0.0
    if position.numel() > count:
        chosen = value.float().topk(count, sorted=False).indices.sort().values
        position = position[chosen]
    return _from_flat(position, n_tokens, n_latents)


def select_topk(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    k: int,
    *,
    dtype: torch.dtype | None = None,
) -> Support:
    """See `reference.select_topk`."""
    n_tokens, n_latents = x.shape[0], weight.shape[0]
    dtype = dtype or x.dtype
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if n_tokens == 0 or k == 0:
        return _empty(n_tokens, n_latents, x.device)
    positions = []
    chunks = _chunks(n_tokens, n_latents, dtype)
    for start in chunks:
        pre = F.linear(x[start : start + chunks.step], weight, bias)
        values, indices = pre.topk(min(k, n_latents), dim=1, sorted=False)
        indices, order = indices.sort(dim=1)
        rows = torch.arange(start, start + pre.shape[0], device=x.device).unsqueeze(1)
        positions.append((rows * n_latents + indices)[values.gather(1, order) > 0])
    return _from_flat(torch.cat(positions), n_tokens, n_latents)


def select_threshold(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    threshold: Float[Tensor, "latents"],
    *,
    dtype: torch.dtype | None = None,
) -> Support:
    """See `reference.select_threshold`.

    A dense product finds every entry that could be above its threshold, with room for rounding; the few found are then
    computed one by one and settled. Where bfloat16 is native the dense product runs in it, and float32 codes stay exact.
    """
    n_tokens, n_latents = x.shape[0], weight.shape[0]
    dtype = dtype or x.dtype
    x, weight = x.to(dtype), weight.to(dtype)
    if n_tokens == 0:
        return _empty(n_tokens, n_latents, x.device)
    threshold = threshold.clamp(min=0)
    rough = torch.bfloat16 if dtype == torch.float32 and has_native_bf16(x.device) else dtype
    left, right = _with_room_for_rounding(x, weight, bias.to(dtype) - threshold.to(dtype), rough)
    positions = []
    chunks = _chunks(n_tokens, n_latents, rough)
    for start in chunks:
        piece = x[start : start + chunks.step]
        found = _above(left[start : start + chunks.step] @ right.T, 0.0)
        near = _from_flat(found, piece.shape[0], n_latents)
        pre = sampled_product(near, piece, weight) + bias[near.indices].to(dtype)
        positions.append(found[pre > threshold[near.indices]] + start * n_latents)
    return _from_flat(torch.cat(positions), n_tokens, n_latents)


def _with_room_for_rounding(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    offset: Float[Tensor, "latents"],
    rough: torch.dtype,
) -> tuple[Float[Tensor, "tokens d_more"], Float[Tensor, "latents d_more"]]:
    """Factors in `rough` precision whose product exceeds zero wherever x · weight + offset does in exact arithmetic.

    With unit roundoff u, rounding both factors errs by at most (2u + u²)·Σ|x_i w_i| <= 2.1u·‖x‖·‖w‖, and summing d products
    in precision v by d·v·‖x‖·‖w‖; one more column in each factor adds that back. The offset goes in as two columns, its
    rounded value and the rest, so that it errs by u² only.
    """
    unit = torch.finfo(rough).eps / 2
    coarse = offset.to(rough)
    rest = (offset - coarse.to(offset.dtype)).to(rough)
    summed_in = torch.finfo(torch.float64 if rough == torch.float64 else torch.float32).eps
    room = 1.01 * (2.2 * unit + x.shape[1] * summed_in) * x.norm(dim=1)
    slack = 4 * unit**2 * offset.abs() + 1e-6 * offset.abs() + torch.finfo(torch.float32).tiny
    ones = torch.ones(x.shape[0], 3, dtype=rough, device=x.device)
    left = torch.cat([x.to(rough), ones, room.to(rough)[:, None]], 1)
    more = [coarse, rest, slack.to(rough), (1.01 * weight.norm(dim=1)).to(rough)]
    right = torch.cat([weight.to(rough), torch.stack(more, 1)], 1)
    # Widths that are multiples of 32 keep the fast matrix kernels.
    padding = -left.shape[1] % 32
    return F.pad(left, (0, padding)), F.pad(right, (0, padding))


def _from_flat(position: Int[Tensor, "nnz"], n_tokens: int, n_latents: int) -> Support:
    rows = torch.div(position, n_latents, rounding_mode="floor")
    return Support.from_rows(rows, position - rows * n_latents, n_tokens, n_latents)


def _empty(n_tokens: int, n_latents: int, device: torch.device) -> Support:
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    return Support(torch.zeros(n_tokens + 1, dtype=torch.int64, device=device), nothing, n_latents)
