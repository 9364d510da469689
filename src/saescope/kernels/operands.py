"""What the hot operations work on: arrays that always go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saescope.kernels.chunks import token_chunks
from saescope.kernels.support import Support


@dataclass(frozen=True)
class Encoding:
    """Pre-activations that are still to be computed: x · weightᵀ + bias. x is centred already where it is to be."""

    x: Float[Tensor, "tokens d"]
    weight: Float[Tensor, "latents d"]
    bias: Float[Tensor, "latents"]

    @property
    def n_tokens(self) -> int:
        return self.x.shape[0]

    @property
    def n_latents(self) -> int:
        return self.weight.shape[0]

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, dtype: torch.dtype | None) -> Encoding:
        """All of it in `dtype`; as it is for None."""
        if dtype is None:
            return self
        return Encoding(self.x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))

    def chunks(self) -> Iterator[tuple[int, Float[Tensor, "chunk latents"]]]:
        """The pre-activations, densely, a chunk of tokens within the memory bound at a time, each with its first token."""
        chunks = token_chunks(self.n_tokens, self.n_latents, self.x.dtype, self.device)
        for start in chunks:
            yield start, F.linear(self.x[start : start + chunks.step], self.weight, self.bias)

    def nothing(self) -> Support:
        """The pattern without an entry."""
        pointers = torch.zeros(self.n_tokens + 1, dtype=torch.int64, device=self.device)
        return Support(pointers, pointers.new_zeros(0), self.n_latents)


@dataclass(frozen=True)
class Decoding:
    """Nested reconstructions of y: rest + Σ of a token's first rows of C @ weight, of which it has `n_levels`.

    C is the [rows, latents] matrix with `values` at the support. `rest` is one vector, or one a token.
    """

    support: Support
    values: Float[Tensor, "nnz"]
    weight: Float[Tensor, "latents d"]
    rest: Float[Tensor, "*tokens d"]
    y: Float[Tensor, "tokens d"]
    n_levels: int = 1


@dataclass(frozen=True)
class Reconstruction:
    """Errors of a `Decoding`, and what the gradient of their squares needs.

    With parts_g the token's g-th row of C @ weight and e_l = y - rest - Σ_{g<=l} parts_g:

    sums [tokens · levels, d]: Σ_{l>=g} e_l in row g of each token; the last row of a token is the last level's error.
    slopes [nnz]: the entry's row of sums, times its latent's row of weight.
    squares [levels]: Σ over tokens of ‖e_l‖².

    The gradient of squares.sum() is -2·slopes in the values, -2·Cᵀ @ sums in the weight, -2·(first rows of sums) in rest.
    """

    sums: Float[Tensor, "rows d"]
    slopes: Float[Tensor, "nnz"]
    squares: Float[Tensor, "levels"]


@dataclass(frozen=True)
class Trained:
    """A matrix of weights, its gradient, and Adam's mean and mean square of that. All of one shape; updated in place.

    follower: a matrix that makes `share` of every move of the weights, the return to the sphere included.
    """

    weight: Float[Tensor, "rows d"]
    grad: Float[Tensor, "rows d"]
    mean: Float[Tensor, "rows d"]
    square: Float[Tensor, "rows d"]
    follower: Float[Tensor, "rows d"] | None = None
    share: float = 0.0


@dataclass(frozen=True)
class AdamStep:
    """One step of Adam: learning rate, decay rates of the moments, 1 - beta1^t and 1 - beta2^t, epsilon."""

    rate: float
    beta1: float
    beta2: float
    correction1: float
    correction2: float
    eps: float
