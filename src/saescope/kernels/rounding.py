"""Matrix factors with biases as further columns, and with room for what low precision loses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saescope.kernels.operands import Encoding

# Widths that are multiples of 32 keep the fast matrix kernels.
_MULTIPLE = 32


def factors(
    pre: Encoding, dtype: torch.dtype
) -> tuple[Float[Tensor, "tokens d_more"], Float[Tensor, "latents d_more"]]:
    """Factors in `dtype` whose product is x · weight + bias: the bias goes in as its rounded value and the rest."""
    x, weight, bias = pre.x, pre.weight, pre.bias
    width = x.shape[1]
    columns = 1 if dtype == bias.dtype else 2
    padded = -(-(width + columns) // _MULTIPLE) * _MULTIPLE
    left = torch.empty(x.shape[0], padded, dtype=dtype, device=x.device)
    right = torch.empty(weight.shape[0], padded, dtype=dtype, device=x.device)
    left[:, :width], right[:, :width] = x, weight
    left[:, width : width + columns] = 1
    left[:, width + columns :], right[:, width + columns :] = 0, 0
    right[:, width] = bias
    if columns == 2:
        right[:, width + 1] = bias - bias.to(dtype).to(bias.dtype)
    return left, right


def with_room_for_rounding(
    pre: Encoding, threshold: Float[Tensor, "latents"], rough: torch.dtype
) -> tuple[Float[Tensor, "tokens d_more"], Float[Tensor, "latents d_more"]]:
    """Factors in `rough` precision whose product exceeds zero wherever a pre-activation truly exceeds its threshold.

    With unit roundoff u, rounding both factors errs by at most (2u + u²)·Σ|x_i w_i| <= 2.1u·‖x‖·‖w‖, and summing d products
    in precision v by d·v·‖x‖·‖w‖; one more column in each factor adds that back. bias - threshold goes in as two columns,
    its rounded value and the rest, so that it errs by u² only.
    """
    x, weight, offset = pre.x, pre.weight, pre.bias - threshold
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
    padding = -left.shape[1] % _MULTIPLE
    return F.pad(left, (0, padding)), F.pad(right, (0, padding))
