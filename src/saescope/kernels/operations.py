"""The contract that every implementation of the hot operations fulfils. `reference` is its definition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.kernels.support import Support


@dataclass(frozen=True)
class AdamStep:
    """One step of Adam: learning rate, decay rates of the moments, 1 - beta1^t and 1 - beta2^t, epsilon."""

    rate: float
    beta1: float
    beta2: float
    correction1: float
    correction2: float
    eps: float


@dataclass(frozen=True)
class Reconstruction:
    """Errors of nested reconstructions, and what the gradient of their squares needs.

    With C of `n_levels` rows a token, parts_g = the token's g-th row of C @ weight and e_l = y - rest - Σ_{g<=l} parts_g:

    sums [tokens · levels, d]: Σ_{l>=g} e_l in row g of each token; the last row of a token is the last level's error.
    slopes [nnz]: the entry's row of sums, times its latent's row of weight.
    squares [levels]: Σ over tokens of ‖e_l‖².

    The gradient of squares.sum() is -2·slopes in the values, -2·Cᵀ @ sums in the weight, -2·(first rows of sums) in rest.
    """

    sums: Float[Tensor, "rows d"]
    slopes: Float[Tensor, "nnz"]
    squares: Float[Tensor, "levels"]


class Kernels(Protocol):
    """A module with these functions. C is the [rows, latents] matrix with `values` at the support, zero elsewhere."""

    @property
    def name(self) -> str: ...

    def decode(
        self, support: Support, values: Float[Tensor, "nnz"], weight: Float[Tensor, "latents d"]
    ) -> Float[Tensor, "rows d"]:
        """C @ weight."""

    def sampled_product(
        self, support: Support, left: Float[Tensor, "rows d"], right: Float[Tensor, "latents d"]
    ) -> Float[Tensor, "nnz"]:
        """The entries of left @ rightᵀ at the support."""

    def weight_gradient(
        self, support: Support, values: Float[Tensor, "nnz"], rows: Float[Tensor, "rows d"]
    ) -> Float[Tensor, "latents d"]:
        """Cᵀ @ rows."""

    def reconstruct(
        self,
        support: Support,
        values: Float[Tensor, "nnz"],
        weight: Float[Tensor, "latents d"],
        rest: Float[Tensor, "*tokens d"],
        y: Float[Tensor, "tokens d"],
        n_levels: int,
    ) -> Reconstruction:
        """Decode, subtract from `y`, and take the gradient in the values, in one. `rest`: one vector or one a token."""

    def latent_sum(self, support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "latents"]:
        """Column sums of C."""

    def select_batch_topk(
        self,
        x: Float[Tensor, "tokens d"],
        weight: Float[Tensor, "latents d"],
        bias: Float[Tensor, "latents"],
        count: int,
        *,
        dtype: torch.dtype | None = None,
    ) -> Support:
        """The `count` largest positive pre-activations of the batch, chosen in `dtype` (default: x's own)."""

    def select_topk(
        self,
        x: Float[Tensor, "tokens d"],
        weight: Float[Tensor, "latents d"],
        bias: Float[Tensor, "latents"],
        k: int,
        *,
        dtype: torch.dtype | None = None,
    ) -> Support:
        """The `k` largest positive pre-activations of each token."""

    def select_threshold(
        self,
        x: Float[Tensor, "tokens d"],
        weight: Float[Tensor, "latents d"],
        bias: Float[Tensor, "latents"],
        threshold: Float[Tensor, "latents"],
    ) -> tuple[Support, Float[Tensor, "nnz"]]:
        """Every pre-activation above its latent's threshold and above zero, and its value."""

    def tangent(
        self, weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], unit_rows: bool
    ) -> tuple[Float[Tensor, "rows"] | None, Float[Tensor, ""]]:
        """Each row's gradient · weight where rows are unit vectors (else None), and the squared norm of what is across."""

    def adam(
        self,
        weight: Float[Tensor, "rows d"],
        grad: Float[Tensor, "rows d"],
        mean: Float[Tensor, "rows d"],
        square: Float[Tensor, "rows d"],
        along: Float[Tensor, "rows"] | None,
        scale: Float[Tensor, ""],
        step: AdamStep,
    ) -> None:
        """One Adam step in place on `scale` times the gradient; with `along`, on its part across each unit row, and
        rows are made unit vectors again. `grad` may be used up."""
