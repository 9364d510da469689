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
from saescope.kernels.operands import AdamStep, Decoding, Encoding, Reconstruction, Trained
from saescope.kernels.room import Room
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
    decoding: Decoding, *, product: Product | None = None, decode_by: Product | None = None
) -> Reconstruction:
    """See `reference.reconstruct`. `product`, `decode_by`: another implementation's `sampled_product` and `decode`."""
    support, weight, n_levels = decoding.support, decoding.weight, decoding.n_levels
    # The parts' own memory holds the errors, then their sums from the end: torch's way through cumsum would write a
    # [tokens, levels, d] tensor several times more.
    flat = (decode_by or decode)(support, decoding.values, weight)
    sums = flat.view(decoding.y.shape[0], n_levels, decoding.y.shape[1])
    before, squares = decoding.y - decoding.rest, []
    for level in range(n_levels):
        before = torch.sub(before, sums[:, level], out=sums[:, level])
        squares.append(torch.linalg.vector_norm(before).square())
    for level in range(n_levels - 2, -1, -1):
        sums[:, level] += sums[:, level + 1]
    return Reconstruction(flat, (product or sampled_product)(support, flat, weight), torch.stack(squares))


def latent_sum(support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "latents"]:
    """See `reference.latent_sum`."""
    if values.device.type in ("cpu", "mps"):
        # Apple's GPUs have no segment_reduce, so there the last bits may differ from run to run.
        return values.new_zeros(support.n_latents).index_add_(0, support.indices, values)
    # On a CUDA device index_add_ adds in any order; a segment sum over the latent order does not.
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
    if table.device.type == "mps":
        return _bag_sum_by_adding(members, table, offsets, weights)
    return F.embedding_bag(members, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _bag_sum_by_adding(
    members: Int[Tensor, "nnz"],
    table: Float[Tensor, "rows d"],
    offsets: Int[Tensor, "bags_plus_one"],
    weights: Float[Tensor, "nnz"],
) -> Float[Tensor, "bags d"]:
    """The same on Apple's GPUs, where torch has `embedding_bag` only lately. The last bits may differ from run to run."""
    bags = torch.repeat_interleave(offsets.diff(), output_size=members.numel())
    out = table.new_zeros(offsets.numel() - 1, table.shape[1])
    step = max(1, _GATHER_ELEMENTS // max(1, table.shape[1]))
    for start in range(0, members.numel(), step):
        piece = slice(start, start + step)
        out.index_add_(0, bags[piece], table[members[piece]] * weights[piece, None])
    return out


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


def _probe_floor(pre: Encoding, count: int) -> float:
    """A value that somewhat more than `count` of the batch's pre-activations should exceed, from evenly spaced tokens."""
    picked = torch.linspace(0, pre.n_tokens - 1, min(pre.n_tokens, _PROBE_TOKENS), device=pre.device).long()
    sample = F.linear(pre.x[picked], pre.weight, pre.bias).float().reshape(-1)
    wanted = int(count / pre.n_tokens * picked.numel() * _PROBE_SURPLUS) + 1
    if wanted >= sample.numel():
        return 0.0
    floor = float(sample.topk(wanted, sorted=False).values.min())
    # Nothing exceeds an infinite floor, and no factor brings it down.
    return max(0.0, floor) if math.isfinite(floor) else 0.0


def select_batch_topk(pre: Encoding, count: int, *, dtype: torch.dtype | None = None) -> Support:
    """See `reference.select_batch_topk`.

    A full top-k over T·F entries costs more than the matrix product. A floor estimated from a few tokens leaves about
    1.3·count candidates, over which the exact top-k is cheap; should the floor let too few through, it is lowered.
    """
    if pre.n_tokens == 0 or count == 0:
        return pre.nothing()
    pre = pre.to(dtype)
    floor, shrink = _probe_floor(pre, count), 0.5
    while True:
        positions, values = [], []
        for start, dense in pre.chunks():
            found = _above(dense, floor)
            positions.append(found + start * pre.n_latents)
            values.append(dense.reshape(-1)[found])
        position, value = torch.cat(positions), torch.cat(values)
        if floor == 0.0 or position.numel() >= count:
            break
        # Each time by a square of the last factor, for every time is another product.
        floor, shrink = floor * shrink if floor > 1e-6 else 0.0, shrink**2
    if position.numel() > count:
        chosen = value.float().topk(count, sorted=False).indices.sort().values
        position = position[chosen]
    return Support.from_flat(position, pre.n_tokens, pre.n_latents)


def select_topk(pre: Encoding, k: int, *, dtype: torch.dtype | None = None) -> Support:
    """See `reference.select_topk`."""
    if pre.n_tokens == 0 or k == 0:
        return pre.nothing()
    positions = []
    for start, dense in pre.to(dtype).chunks():
        values, indices = dense.topk(min(k, pre.n_latents), dim=1, sorted=False)
        indices, order = indices.sort(dim=1)
        rows = torch.arange(start, start + dense.shape[0], device=pre.device).unsqueeze(1)
        positions.append((rows * pre.n_latents + indices)[values.gather(1, order) > 0])
    return Support.from_flat(torch.cat(positions), pre.n_tokens, pre.n_latents)


def select_threshold(
    pre: Encoding, threshold: Float[Tensor, "latents"], *, room: Room | None = None, product: Product | None = None
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """See `reference.select_threshold`. `product`: another implementation's `sampled_product`.

    A dense product finds every entry that could be above its threshold, with room for rounding; the few found are then
    computed one by one and settled. Where bfloat16 is native the dense product runs in it, and float32 codes stay exact.
    """
    if pre.n_tokens == 0:
        return pre.nothing(), pre.x.new_zeros(0)
    threshold = threshold.clamp(min=0)
    left, right = with_room_for_rounding(pre, threshold, rough_dtype(pre))
    positions = []
    chunks = token_chunks(pre.n_tokens, pre.n_latents, left.dtype, pre.device)
    for start in chunks:
        found = _above(left[start : start + chunks.step] @ right.T, 0.0)
        positions.append(found + start * pre.n_latents)
    near = Support.from_flat(torch.cat(positions), pre.n_tokens, pre.n_latents)
    support, values = settled(near, pre, threshold, product or sampled_product)
    if room is not None:
        room.tell(torch.tensor([near.nnz, support.nnz]), None)
    return support, values


def rough_dtype(pre: Encoding) -> torch.dtype:
    """In which precision entries near their threshold are looked for."""
    return torch.bfloat16 if pre.x.dtype == torch.float32 and has_native_bf16(pre.device) else pre.x.dtype


def settled(
    near: Support, pre: Encoding, threshold: Float[Tensor, "latents"], product: Product
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """Those of the `near` entries whose exact pre-activation is above the threshold, and these."""
    exact = product(near, pre.x, pre.weight) + pre.bias[near.indices]
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


def adam(trained: Trained, along: Float[Tensor, "rows"] | None, scale: Float[Tensor, ""], step: AdamStep) -> None:
    """See `reference.adam`. Overwrites the gradient."""
    weight, grad, mean, square = trained.weight, trained.grad, trained.mean, trained.square
    if trained.follower is not None:
        trained.follower.sub_(weight, alpha=trained.share)
    if along is not None:
        grad.addcmul_(along[:, None], weight, value=-1)
    grad.mul_(scale)
    mean.lerp_(grad, 1 - step.beta1)
    square.mul_(step.beta2).addcmul_(grad, grad, value=1 - step.beta2)
    torch.sqrt(square, out=grad).div_(step.correction2**0.5).add_(step.eps)
    weight.addcdiv_(mean, grad, value=-step.rate / step.correction1)
    if along is not None:
        weight.div_(torch.linalg.vector_norm(weight, dim=1, keepdim=True).clamp_(min=1e-8))
    if trained.follower is not None:
        trained.follower.add_(weight, alpha=trained.share)
