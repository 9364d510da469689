"""The hot operations, as definitions: dense torch, one line of mathematics each.

Slow and memory-hungry on purpose. Every other implementation is tested against this one.
`C` is the [rows, latents] matrix with `values` at the support and zeros elsewhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.kernels.operations import AdamStep, Reconstruction
from saescope.kernels.support import Support

name = "reference"


def densify(support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "rows latents"]:
    """C itself."""
    dense = torch.zeros(support.n_rows, support.n_latents, dtype=values.dtype, device=values.device)
    dense[support.rows, support.indices] = values
    return dense


def decode(
    support: Support, values: Float[Tensor, "nnz"], weight: Float[Tensor, "latents d"]
) -> Float[Tensor, "rows d"]:
    """C @ weight."""
    return densify(support, values) @ weight


def sampled_product(
    support: Support, left: Float[Tensor, "rows d"], right: Float[Tensor, "latents d"]
) -> Float[Tensor, "nnz"]:
    """The entries of left @ rightᵀ at the support: pre-activations of chosen latents, or the values' gradient."""
    return (left @ right.T)[support.rows, support.indices]


def weight_gradient(
    support: Support, values: Float[Tensor, "nnz"], rows: Float[Tensor, "rows d"]
) -> Float[Tensor, "latents d"]:
    """Cᵀ @ rows."""
    return densify(support, values).T @ rows


def reconstruct(
    support: Support,
    values: Float[Tensor, "nnz"],
    weight: Float[Tensor, "latents d"],
    rest: Float[Tensor, "*tokens d"],
    y: Float[Tensor, "tokens d"],
    n_levels: int,
) -> Reconstruction:
    """parts = C @ weight by token; e_l = y - rest - Σ_{g<=l} parts_g; sums_g = Σ_{l>=g} e_l; slopes = sums @ weightᵀ there."""
    parts = (densify(support, values) @ weight).view(y.shape[0], n_levels, y.shape[1])
    errors = (y - rest)[:, None] - parts.cumsum(1)
    sums = errors.flip(1).cumsum(1).flip(1).reshape(-1, y.shape[1])
    return Reconstruction(sums, sampled_product(support, sums, weight), errors.pow(2).sum((0, 2)))


def latent_sum(support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "latents"]:
    """The column sums of C: the gradient of a per-latent bias."""
    return densify(support, values).sum(0)


def _pre(
    x: Float[Tensor, "tokens d"], weight: Float[Tensor, "latents d"], bias: Float[Tensor, "latents"]
) -> Float[Tensor, "tokens latents"]:
    return x @ weight.T + bias


def _from_mask(chosen: Tensor) -> Support:
    rows, indices = chosen.nonzero(as_tuple=True)
    return Support.from_rows(rows, indices, chosen.shape[0], chosen.shape[1])


def select_batch_topk(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    count: int,
    *,
    dtype: torch.dtype | None = None,
) -> Support:
    """The `count` largest positive pre-activations of the whole batch (all of the positive ones if fewer)."""
    pre = _pre(x, weight, bias)
    flat = pre.flatten()
    count = min(count, flat.numel())
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(count).indices] = True
    return _from_mask(chosen.view_as(pre) & (pre > 0))


def select_topk(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    k: int,
    *,
    dtype: torch.dtype | None = None,
) -> Support:
    """The `k` largest positive pre-activations of each token."""
    pre = _pre(x, weight, bias)
    chosen = torch.zeros_like(pre, dtype=torch.bool)
    chosen.scatter_(1, pre.topk(min(k, pre.shape[1]), dim=1).indices, True)
    return _from_mask(chosen & (pre > 0))


def select_threshold(
    x: Float[Tensor, "tokens d"],
    weight: Float[Tensor, "latents d"],
    bias: Float[Tensor, "latents"],
    threshold: Float[Tensor, "latents"],
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """Every pre-activation above its latent's threshold and above zero, and its value."""
    pre = _pre(x, weight, bias)
    support = _from_mask(pre > threshold.clamp(min=0))
    return support, pre[support.rows, support.indices]


def tangent(
    weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], unit_rows: bool
) -> tuple[Float[Tensor, "rows"] | None, Float[Tensor, ""]]:
    """along = Σ_i grad_i · weight_i for each unit row (None where rows are not), and ‖grad - along · weight‖²."""
    if not unit_rows:
        return None, grad.pow(2).sum()
    along = (grad * weight).sum(1)
    return along, (grad - along[:, None] * weight).pow(2).sum()


def adam(
    weight: Float[Tensor, "rows d"],
    grad: Float[Tensor, "rows d"],
    mean: Float[Tensor, "rows d"],
    square: Float[Tensor, "rows d"],
    along: Float[Tensor, "rows"] | None,
    scale: Float[Tensor, ""],
    step: AdamStep,
) -> None:
    """Adam (Kingma & Ba, 2015) in place, on the sphere where `along` is given:

    g = scale · (grad - along · weight);  m = β₁m + (1-β₁)g;  v = β₂v + (1-β₂)g²
    weight -= rate · (m / correction1) / (√(v / correction2) + eps);  weight /= ‖weight row‖
    """
    across = grad if along is None else grad - along[:, None] * weight
    g = scale * across
    mean.copy_(step.beta1 * mean + (1 - step.beta1) * g)
    square.copy_(step.beta2 * square + (1 - step.beta2) * g**2)
    weight.sub_(step.rate * (mean / step.correction1) / ((square / step.correction2).sqrt() + step.eps))
    if along is not None:
        weight.div_(weight.norm(dim=1, keepdim=True).clamp(min=1e-8))
