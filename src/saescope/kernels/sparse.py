"""The hot operations on plain torch operators, without a dense [tokens, latents] matrix in float32.

Bytes and FLOPs (T tokens, F latents, d inputs, n = nnz): selection costs 2·T·F·d FLOPs, the one dense product that an
exact method needs; the rest moves about 4·n·d bytes each. `embedding_bag` sums weighted rows of a table in parallel over
bags, so it serves decode (bags = tokens, table = decoder) and, on the transposed support, the weight gradients (bags =
latents, table = the tokens' rows). Every bag is summed by one thread in order, so results do not depend on scheduling.

Selection may run in bfloat16 (`dtype`): the chosen *support* then differs from the reference's only where
pre-activations lie within bfloat16 rounding of the boundary; values are always recomputed by `sampled_product`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from saescope.kernels.chunks import token_chunks
from saescope.kernels.operations import AdamStep, Reconstruction
from saescope.kernels.rounding import with_room_for_rounding
from saescope.kernels.support import Support
from saescope.lm import has_native_bf16

name = "sparse"

# torch says so once per process; what is used of it is tested against the dense reference.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")

# A `sampled_product` or `decode`: of a support and two arrays.
Product = Callable[[Support, Tensor, Tensor], Tensor]

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


def reconstruct(
    support: Support,
    values: Float[Tensor, "nnz"],
    weight: Float[Tensor, "latents d"],
    rest: Float[Tensor, "*tokens d"],
    y: Float[Tensor, "tokens d"],
    n_levels: int,
    *,
    product: Product | None = None,
    decoding: Product | None = None,
) -> Reconstruction:
    """See `reference.reconstruct`. `product`, `decoding`: another implementation's `sampled_product` and `decode`."""
    # The parts' own memory holds the errors, then their sums from the end: torch's way through cumsum would write a
    # [tokens, levels, d] tensor several times more.
    flat = (decoding or decode)(support, values, weight)
    sums = flat.view(y.shape[0], n_levels, y.shape[1])
    before, squares = y - rest, []
    for level in range(n_levels):
        before = torch.sub(before, sums[:, level], out=sums[:, level])
        squares.append(torch.linalg.vector_norm(before).square())
    for level in range(n_levels - 2, -1, -1):
        sums[:, level] += sums[:, level + 1]
    return Reconstruction(flat, (product or sampled_product)(support, flat, weight), torch.stack(squares))


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


def above(pre: Float[Tensor, "tokens latents"], floor: float) -> Int[Tensor, "found"]:
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
    floor = float(sample.topk(wanted, sorted=False).values.min())
    # Nothing exceeds an infinite floor, and no factor brings it down.
    return max(0.0, floor) if math.isfinite(floor) else 0.0


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
        return empty(n_tokens, n_latents, x.device)
    floor, shrink = _probe_floor(x, weight, bias, count), 0.5
    chunks = token_chunks(n_tokens, n_latents, dtype, x.device)
    while True:
        positions, values = [], []
        for start in chunks:
            pre = F.linear(x[start : start + chunks.step], weight, bias)
            found = above(pre, floor)
            positions.append(found + start * n_latents)
            values.append(pre.reshape(-1)[found])
        position, value = torch.cat(positions), torch.cat(values)
        if floor == 0.0 or position.numel() >= count:
            break
        # Each time by a square of the last factor, for every time is another product.
        floor, shrink = floor * shrink if floor > 1e-6 else 0.0, shrink**2
    if position.numel() > count:
        chosen = value.float().topk(count, sorted=False).indices.sort().values
        position = position[chosen]
    return from_flat(position, n_tokens, n_latents)


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
        return empty(n_tokens, n_latents, x.device)
    positions = []
    chunks = token_chunks(n_tokens, n_latents, dtype, x.device)
    for start in chunks:
        pre = F.linear(x[start : start + chunks.step], weight, bias)
        values, indices = pre.topk(min(k, n_latents), dim=1, sorted=False)
        indices, order = indices.sort(dim=1)
        rows = torch.arange(start, start + pre.shape[0], device=x.device).unsqueeze(1)
        positions.append((rows * n_latents + indices)[values.gather(1, order) > 0])
    return from_flat(torch.cat(positions), n_tokens, n_latents)


def select_threshold(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    threshold: Float[Tensor, "latents"],
    *,
    product: Product | None = None,
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """See `reference.select_threshold`. `product`: another implementation's `sampled_product`.

    A dense product finds every entry that could be above its threshold, with room for rounding; the few found are then
    computed one by one and settled. Where bfloat16 is native the dense product runs in it, and float32 codes stay exact.
    """
    n_tokens, n_latents = x.shape[0], weight.shape[0]
    if n_tokens == 0:
        return empty(n_tokens, n_latents, x.device), x.new_zeros(0)
    threshold = threshold.clamp(min=0)
    left, right = with_room_for_rounding(x, weight, bias - threshold, rough_dtype(x))
    positions = []
    chunks = token_chunks(n_tokens, n_latents, left.dtype, x.device)
    for start in chunks:
        found = above(left[start : start + chunks.step] @ right.T, 0.0)
        positions.append(found + start * n_latents)
    near = from_flat(torch.cat(positions), n_tokens, n_latents)
    return settled(near, x, weight, bias, threshold, product or sampled_product)


def rough_dtype(x: Float[Tensor, "tokens d"]) -> torch.dtype:
    """In which precision entries near their threshold are looked for."""
    return torch.bfloat16 if x.dtype == torch.float32 and has_native_bf16(x.device) else x.dtype


def settled(
    near: Support,
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    threshold: Float[Tensor, "latents"],
    product: Product,
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """Those of the `near` entries whose exact pre-activation is above the threshold, and these."""
    exact = product(near, x, weight) + bias[near.indices]
    kept = exact > threshold[near.indices]
    return near.where(kept), exact[kept]


def tangent(
    weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], unit_rows: bool
) -> tuple[Float[Tensor, "rows"] | None, Float[Tensor, ""]]:
    """See `reference.tangent`."""
    square = torch.linalg.vector_norm(grad).square()
    if not unit_rows:
        return None, square
    along = torch.linalg.vecdot(grad, weight)
    return along, (square - torch.linalg.vector_norm(along).square()).clamp(min=0)


def adam(
    weight: Float[Tensor, "rows d"],
    grad: Float[Tensor, "rows d"],
    mean: Float[Tensor, "rows d"],
    square: Float[Tensor, "rows d"],
    along: Float[Tensor, "rows"] | None,
    scale: Float[Tensor, ""],
    step: AdamStep,
) -> None:
    """See `reference.adam`. Overwrites `grad`."""
    if along is not None:
        grad.addcmul_(along[:, None], weight, value=-1)
    grad.mul_(scale)
    mean.lerp_(grad, 1 - step.beta1)
    square.mul_(step.beta2).addcmul_(grad, grad, value=1 - step.beta2)
    torch.sqrt(square, out=grad).div_(step.correction2**0.5).add_(step.eps)
    weight.addcdiv_(mean, grad, value=-step.rate / step.correction1)
    if along is not None:
        weight.div_(torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_(min=1e-8))


def from_flat(position: Int[Tensor, "nnz"], n_tokens: int, n_latents: int) -> Support:
    """The pattern of ascending flat positions in [tokens, latents]."""
    rows = torch.div(position, n_latents, rounding_mode="floor")
    return Support.from_rows(rows, position - rows * n_latents, n_tokens, n_latents)


def empty(n_tokens: int, n_latents: int, device: torch.device) -> Support:
    """The pattern without an entry."""
    nothing = torch.zeros(0, dtype=torch.int64, device=device)
    return Support(torch.zeros(n_tokens + 1, dtype=torch.int64, device=device), nothing, n_latents)
