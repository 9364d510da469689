"""The squared error of nested reconstructions, in as few passes over memory as there are levels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _NestedSquaredError(torch.autograd.Function):
    """With e_l = y - offset - Σ_{g<=l} parts_g: the loss is mean_l ‖e_l‖²/(T·d), and its gradient in parts_g is
    -2/(L·T·d) Σ_{l>=g} e_l. One buffer holds the errors, then, summed from the end, the gradients; autograd's own way
    through cumsum and pow would write a [tokens, levels, d] tensor a dozen times."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, offset: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        errors = torch.empty_like(parts)
        total = parts.new_zeros(())
        error = y - offset
        for level in range(parts.shape[1]):
            error = torch.sub(error, parts[:, level], out=errors[:, level])
            total = total + torch.linalg.vector_norm(error).square()
        ctx.errors, ctx.one_offset = errors, offset.ndim == 1
        # No tokens: the mean over nothing is taken as zero, so that an empty batch is harmless.
        ctx.scale = 1.0 / max(1, parts.numel())
        final = error.clone()
        ctx.mark_non_differentiable(final)
        return total * ctx.scale, final

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums = ctx.errors
        del ctx.errors
        for level in range(sums.shape[1] - 2, -1, -1):
            sums[:, level] += sums[:, level + 1]
        sums *= grads[0] * (-2.0 * ctx.scale)
        d_offset = sums[:, 0].sum(0) if ctx.one_offset else sums[:, 0].clone()
        return sums, d_offset, None


def nested_squared_error(
    parts: Float[Tensor, "tokens levels d"], offset: Float[Tensor, "*tokens d"], y: Float[Tensor, "tokens d"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens d"]]:
    """Mean over levels of the squared error per token and dimension of `offset + Σ first parts` against `y`, and the last
    level's error (a constant). Differentiable once, in parts and offset."""
    loss, final = _NestedSquaredError.apply(parts, offset, y)  # type: ignore[no-untyped-call]
    return loss, final
