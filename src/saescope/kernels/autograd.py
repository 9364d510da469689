"""The sparse operations as differentiable functions: exact gradients on the chosen support.

The support is a constant of the step (choosing is piecewise constant), so these are the true derivatives of encode and
decode with the support held fixed, as the dense reference's autograd gives them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.kernels import dispatch
from saescope.kernels.operands import Decoding
from saescope.kernels.support import Support


class _Preactivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shift: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        support: Support,
        known: Tensor | None,
        centred: Tensor | None,
    ) -> Tensor:
        if centred is None:
            centred = x if shift is None else x - shift
        ctx.save_for_backward(centred, weight)
        ctx.support, ctx.shifted = support, shift is not None
        if known is not None:
            return known.clone()
        return dispatch.active(weight.device).sampled_product(support, centred, weight) + bias[support.indices]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        kernels = dispatch.active(grad.device)
        centred, weight = ctx.saved_tensors
        support: Support = ctx.support
        needs_x, needs_shift, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        d_x = kernels.decode(support, grad, weight) if needs_x else None
        d_weight = kernels.weight_gradient(support, grad, centred) if needs_weight else None
        d_bias = kernels.latent_sum(support, grad) if needs_bias or (needs_shift and ctx.shifted) else None
        d_shift = None
        if needs_shift and ctx.shifted:
            # Summed over the batch first: a vector times the encoder, not another product over all tokens.
            assert d_bias is not None
            d_shift = -(d_bias @ weight)
        return d_x, d_shift, d_weight, d_bias if needs_bias else None, None, None, None


class _PerLatent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vector: Tensor, support: Support) -> Tensor:
        ctx.support = support
        return vector[support.indices]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return dispatch.active(grads[0].device).latent_sum(ctx.support, grads[0]), None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.support = support
        return dispatch.active(weight.device).decode(support, values, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous()
        kernels = dispatch.active(grad.device)
        values, weight = ctx.saved_tensors
        needs_values, needs_weight, _ = ctx.needs_input_grad
        d_values = kernels.sampled_product(ctx.support, grad, weight) if needs_values else None
        d_weight = kernels.weight_gradient(ctx.support, values, grad) if needs_weight else None
        return d_values, d_weight, None


class _ReconstructionError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, rest: Tensor, y: Tensor, support: Support, n_levels: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        decoding = Decoding(support, values, weight, rest, y, n_levels)
        found = dispatch.active(weight.device).reconstruct(decoding)
        ctx.save_for_backward(values)
        ctx.found, ctx.support, ctx.n_levels, ctx.one_rest = found, support, n_levels, rest.ndim == 1
        last = found.squares[-1]
        ctx.mark_non_differentiable(last, found.sums)
        return found.squares.sum(), last, found.sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found, (values,) = ctx.found, ctx.saved_tensors
        del ctx.found
        factor = -2 * grads[0]
        needs_weight = ctx.needs_input_grad[1]
        kernels = dispatch.active(values.device)
        d_weight = kernels.weight_gradient(ctx.support, factor * values, found.sums) if needs_weight else None
        first = found.sums[:: ctx.n_levels]
        d_rest = (first.sum(0) if ctx.one_rest else first) * factor
        return factor * found.slopes, d_weight, d_rest, None, None, None


def preactivations_on(
    support: Support,
    x: Float[Tensor, "tokens d_in"],
    weight: Float[Tensor, "latents d_in"],
    bias: Float[Tensor, "latents"],
    shift: Float[Tensor, "d_in"] | None = None,
    *,
    known: Float[Tensor, "nnz"] | None = None,
    centred: Float[Tensor, "tokens d_in"] | None = None,
) -> Float[Tensor, "nnz"]:
    """(x - shift) · weightᵀ + bias at the support. Differentiable in x, shift, weight and bias.

    `known`: these values, `centred`: x - shift, where selection has computed them already.
    """
    values: Tensor = _Preactivations.apply(  # type: ignore[no-untyped-call]
        x, shift, weight, bias, support, known, centred
    )
    return values


def per_latent(support: Support, vector: Float[Tensor, "latents"]) -> Float[Tensor, "nnz"]:
    """Each entry's latent's number. Differentiable; its gradient is summed in a fixed order, as indexing's is not."""
    values: Tensor = _PerLatent.apply(vector, support)  # type: ignore[no-untyped-call]
    return values


def decode_from(
    support: Support, values: Float[Tensor, "nnz"], weight: Float[Tensor, "latents d_out"]
) -> Float[Tensor, "rows d_out"]:
    """Σ values · weight rows, per row of the support. Differentiable in values and weight."""
    out: Tensor = _Decode.apply(values, weight, support)  # type: ignore[no-untyped-call]
    return out


def reconstruction_error(
    support: Support,
    values: Float[Tensor, "nnz"],
    weight: Float[Tensor, "latents d"],
    rest: Float[Tensor, "*tokens d"],
    y: Float[Tensor, "tokens d"],
    n_levels: int = 1,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "rows d"]]:
    """Squared errors, summed over tokens, of the reconstructions rest + Σ first parts, one for each of `n_levels` rows that a
    token has in `support`: their sum over levels; the last level's; and `Reconstruction.sums`, whose last row of each token
    is the last level's error y - ŷ.

    The first is differentiable, once, in values, weight and rest; the others are constants.
    """
    total, last, sums = _ReconstructionError.apply(  # type: ignore[no-untyped-call]
        values, weight, rest, y, support, n_levels
    )
    return total, last, sums
