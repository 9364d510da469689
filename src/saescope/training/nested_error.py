"""The squared error of nested reconstructions, in as few passes over memory as there are levels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _NestedSquaredError(torch.autograd.Function):
    """With e_l = y - offset - Σ_{g<=l} parts_g: the loss is mean_l ‖e_l‖²/(T·d), and its gradient in parts_g is
    -2/(L·T·d) Σ_{l>=g} e_l. The parts' own memory holds the errors, then, summed from the end, the gradients; autograd's way
    through cumsum and pow would write a [tokens, levels, d] tensor a dozen times."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, offset: Tensor, y: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        errors = parts.detach()
        before = y - offset
        squares = []
        for level in range(parts.shape[1]):
            before = torch.sub(before, errors[:, level], out=errors[:, level])
            squares.append(torch.linalg.vector_norm(before).square())
        ctx.errors, ctx.one_offset = errors, offset.ndim == 1
        # No tokens: the mean over nothing is taken as zero, so that an empty batch is harmless.
        ctx.scale = 1.0 / max(1, parts.numel())
        first = before[:rows].clone()
        ctx.mark_non_differentiable(squares[-1], first)
        return torch.stack(squares).sum() * ctx.scale, squares[-1], first

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums = ctx.errors
        del ctx.errors
        for level in range(sums.shape[1] - 2, -1, -1):
            sums[:, level] += sums[:, level + 1]
        sums *= grads[0] * (-2.0 * ctx.scale)
        d_offset = sums[:, 0].sum(0) if ctx.one_offset else sums[:, 0].clone()
        return sums, d_offset, None, None


def nested_squared_error(
    parts: Float[Tensor, "tokens levels d"],
    offset: Float[Tensor, "*tokens d"],
    y: Float[Tensor, "tokens d"],
    rows: int = 0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "rows d"]]:
    """Mean over levels of the squared error per token and dimension of `offset + Σ first parts` against `y`; the last level's
    sum of squared errors; and that level's errors in the first `rows` tokens (both constants).

    Differentiable once, in parts and offset. Uses up `parts`: they hold something else afterwards.
    """
    loss, square, first = _NestedSquaredError.apply(parts, offset, y, rows)  # type: ignore[no-untyped-call]
    return loss, square, first
