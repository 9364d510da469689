"""The largest numbers of a dense matrix on a GPU, in two readings of it.

torch's top-k goes over all numbers once for every two bits of theirs. Here the columns are cut into groups of G, and one
pass over memory finds each group's largest. The k largest numbers are among the k groups whose largest are the largest: a
number outside of them is at most as large as k others. So what is left to search are F / G maxima, then k · G numbers,
with G about sqrt(F / k): 4,096 numbers of 65,536 for k = 64.

Within a token a program of its own does both searches, on the numbers' bits, which order as integers do once those of
negative numbers are flipped. Over a batch torch's top-k does them. Ties go either way. Works on CPU tensors under Triton's
interpreter; whatever these kernels do not take goes to torch's top-k.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.kernels.launching import interpreted, kernels

# A search keeps all of its numbers in registers.
_MOST_SEARCHED = 8192
# Fewer, in all or for each number that is to be found, are not worth three launches.
_FEWEST_COLUMNS, _FEWEST_A_FOUND = 512, 16
_LARGEST_GROUP = 128
# Numbers that one program reads at once for their groups' largest.
_TILE = 4096
_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def largest_of_each_row(values: Float[Tensor, "rows columns"], k: int) -> Int[Tensor, "rows k"]:
    """The columns of every row's k largest numbers, ascending; k is from one to the number of columns."""
    group = _group(values, k)
    n_groups = -(-values.shape[1] // group)
    if group < 2 or max(n_groups, k * group) > _MOST_SEARCHED:
        return values.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    bits = values.view(_BITS[values.dtype])
    groups = torch.empty(values.shape[0], k, dtype=torch.int32, device=values.device)
    columns = torch.empty(values.shape[0], k, dtype=torch.int64, device=values.device)
    maxima = _group_maxima(bits, group)
    _search(maxima, groups, groups, 1, n_groups)
    _search(bits, groups, columns, group, k * group)
    return columns


def largest(values: Float[Tensor, "rows columns"], count: int) -> tuple[Float[Tensor, "count"], Int[Tensor, "count"]]:
    """The `count` largest numbers of the whole matrix, one at least, and their flat positions, in any order."""
    group = _group(values, count / values.shape[0])
    if group < 2 or values.shape[1] % group:
        found = values.flatten().topk(count, sorted=False)
        return found.values, found.indices
    maxima = _group_maxima(values.view(_BITS[values.dtype]), group).view(values.dtype)
    groups = maxima.flatten().topk(count, sorted=False).indices
    found = values.view(-1, group)[groups].flatten().topk(count, sorted=False)
    return found.values, groups[found.indices // group] * group + found.indices % group


def _group(values: Float[Tensor, "rows columns"], per_row: float) -> int:
    """How many columns make a group: a power of two near sqrt(columns / per_row), or 1 where groups are no gain."""
    runs = values.is_cuda or interpreted()
    columns = values.shape[1]
    if not runs or values.dtype not in _BITS or not values.is_contiguous():
        return 1
    # Wide enough for that, there are more than twice as many groups as are to be found.
    if columns < max(_FEWEST_COLUMNS, _FEWEST_A_FOUND * per_row):
        return 1
    return int(min(_LARGEST_GROUP, 2 ** round(math.log2(columns / per_row) / 2)))


def _group_maxima(bits: Int[Tensor, "rows columns"], group: int) -> Int[Tensor, "rows groups"]:
    """The bits of the largest of every `group` columns; the last group may have fewer."""
    n_groups = -(-bits.shape[1] // group)
    out = torch.empty(bits.shape[0], n_groups, dtype=bits.dtype, device=bits.device)
    at_once = _TILE // group
    with torch.cuda.device_of(bits):
        kernels().group_maxima[(bits.shape[0], -(-n_groups // at_once))](
            bits, out, bits.shape[1], n_groups, GROUP=group, GROUPS=at_once, MASK=_mask(bits), num_warps=4
        )
    return out


def _search(
    bits: Int[Tensor, "rows columns"],
    groups: Int[Tensor, "rows k"],
    out: Int[Tensor, "rows k"],
    group: int,
    n_searched: int,
) -> None:
    """The columns of each row's largest numbers into `out`, among those of its `groups`; among all for groups of one."""
    block = 1 << (n_searched - 1).bit_length()
    with torch.cuda.device_of(bits):
        kernels().search_row[(bits.shape[0],)](
            bits, groups, out, bits.shape[1], n_searched, out.shape[1],
            GROUP=group, BLOCK=block, MASK=_mask(bits), N_BITS=bits.dtype.itemsize * 8,
            num_warps=min(8, max(1, block // 512)),
        )  # fmt: skip


def _mask(bits: Tensor) -> int:
    """All bits but the sign's."""
    return int(torch.iinfo(bits.dtype).max)
