"""The contract that every implementation of the hot operations fulfils. `reference` is its definition."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.kernels.operands import AdamStep, Decoding, Encoding, Reconstruction, Trained
from saescope.kernels.room import Room
from saescope.kernels.support import Support


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

    def reconstruct(self, decoding: Decoding) -> Reconstruction:
        """Decode, subtract from `y`, and take the gradient in the values, in one."""

    def latent_sum(self, support: Support, values: Float[Tensor, "nnz"]) -> Float[Tensor, "latents"]:
        """Column sums of C."""

    def select_batch_topk(self, pre: Encoding, count: int, *, dtype: torch.dtype | None = None) -> Support:
        """The `count` largest positive pre-activations of the batch, chosen in `dtype` (default: x's own)."""

    def select_topk(self, pre: Encoding, k: int, *, dtype: torch.dtype | None = None) -> Support:
        """The `k` largest positive pre-activations of each token."""

    def select_threshold(
        self, pre: Encoding, threshold: Float[Tensor, "latents"], *, room: Room | None = None
    ) -> tuple[Support, Float[Tensor, "nnz"]]:
        """Every pre-activation above its latent's threshold and above zero, and its value. With `room`, an implementation may
        return so many entries that the host need not wait to learn how many there are: those that fill up have value zero.
        """

    def tangent(
        self, weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], unit_rows: bool
    ) -> tuple[Float[Tensor, "rows"] | None, Float[Tensor, ""]]:
        """Each row's gradient · weight where rows are unit vectors (else None), and the squared norm of what is across."""

    def adam(
        self, trained: Trained, along: Float[Tensor, "rows"] | None, scale: Float[Tensor, ""], step: AdamStep
    ) -> None:
        """One Adam step in place on `scale` times the gradient; with `along`, on its part across each unit row, and
        rows are made unit vectors again. A follower moves along. The gradient may be used up."""
