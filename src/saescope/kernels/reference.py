"""The hot operations, as definitions: dense torch, one line of mathematics each.

Slow and memory-hungry on purpose. Every other implementation is tested against this one.
`C` is the [rows, latents] matrix with `values` at the support and zeros elsewhere.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.kernels.operands import AdamStep, Decoding, Encoding, Reconstruction, Trained
from saescope.kernels.room import Room
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


def reconstruct(decoding: Decoding) -> Reconstruction:
    """parts = C @ weight by token; e_l = y - rest - Σ_{g<=l} parts_g; sums_g = Σ_{l>=g} e_l; slopes = sums @ weightᵀ there."""
    given, (n_tokens, width) = decoding, decoding.y.shape
    parts = decode(given.support, given.values, given.weight).view(n_tokens, given.n_levels, width)
    errors = (given.y - given.rest)[:, None] - parts.cumsum(1)
    sums = errors.flip(1).cumsum(1).flip(1).reshape(-1, width)
    return Reconstruction(sums, sampled_product(given.support, sums, given.weight), errors.pow(2).sum((0, 2)))


def latent_sum(support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "latents"]:
    """The column sums of C: the gradient of a per-latent bias."""
    return densify(support, values).sum(0)


def _dense(pre: Encoding) -> Float[Tensor, "tokens latents"]:
    return pre.x @ pre.weight.T + pre.bias


def _from_mask(chosen: Tensor) -> Support:
    rows, indices = chosen.nonzero(as_tuple=True)
    return Support.from_rows(rows, indices, chosen.shape[0], chosen.shape[1])


def select_batch_topk(pre: Encoding, count: int, *, dtype: torch.dtype | None = None) -> Support:
    """The `count` largest positive pre-activations of the whole batch (all of the positive ones if fewer)."""
    dense = _dense(pre)
    flat = dense.flatten()
    count = min(count, flat.numel())
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(count).indices] = True
    return _from_mask(chosen.view_as(dense) & (dense > 0))


def select_topk(pre: Encoding, k: int, *, dtype: torch.dtype | None = None) -> Support:
    """The `k` largest positive pre-activations of each token."""
    dense = _dense(pre)
    chosen = torch.zeros_like(dense, dtype=torch.bool)
    chosen.scatter_(1, dense.topk(min(k, pre.n_latents), dim=1).indices, True)
    return _from_mask(chosen & (dense > 0))


def select_threshold(
    pre: Encoding, threshold: Float[Tensor, "latents"], *, room: Room | None = None
) -> tuple[Support, Float[Tensor, "nnz"]]:
    """Every pre-activation above its latent's threshold and above zero, and its value. `room` is of no concern here."""
    dense = _dense(pre)
    support = _from_mask(dense > threshold.clamp(min=0))
    return support, dense[support.rows, support.indices]


def tangent(
    weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], unit_rows: bool
) -> tuple[Float[Tensor, "rows"] | None, Float[Tensor, ""]]:
    """along = Σ_i grad_i · weight_i for each unit row (None where rows are not), and ‖grad - along · weight‖²."""
    if not unit_rows:
        return None, grad.pow(2).sum()
    along = (grad * weight).sum(1)
    return along, (grad - along[:, None] * weight).pow(2).sum()


def adam(trained: Trained, along: Float[Tensor, "rows"] | None, scale: Float[Tensor, ""], step: AdamStep) -> None:
    """Adam (Kingma & Ba, 2015) in place, on the sphere where `along` is given:

    g = scale · (grad - along · weight);  m = β₁m + (1-β₁)g;  v = β₂v + (1-β₂)g²
    weight -= rate · (m / correction1) / (√(v / correction2) + eps);  weight /= ‖weight row‖
    follower += share · (weight - weight before)
    """
    before = trained.weight.clone()
    weight, grad, mean, square = trained.weight, trained.grad, trained.mean, trained.square
    g = scale * (grad if along is None else grad - along[:, None] * weight)
    mean.copy_(step.beta1 * mean + (1 - step.beta1) * g)
    square.copy_(step.beta2 * square + (1 - step.beta2) * g**2)
    weight.sub_(step.rate * (mean / step.correction1) / ((square / step.correction2).sqrt() + step.eps))
    if along is not None:
        weight.div_(weight.norm(dim=1, keepdim=True).clamp(min=1e-8))
    if trained.follower is not None:
        trained.follower.add_(trained.share * (weight - before))
