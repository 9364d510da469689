"""Sparse codes of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import CoderError
from saescope.kernels import Support


@dataclass(frozen=True)
class Codes:
    """The active latents of every token and their values, in compressed rows.

    Shapes: pointers [tokens + 1] int64, indices [nnz] int64 ascending within a token, values [nnz].
    Token t's latents are `indices[pointers[t]:pointers[t + 1]]`.
    """

    support: Support
    values: Float[Tensor, "nnz"]

    @property
    def pointers(self) -> Int[Tensor, "tokens_plus_one"]:
        return self.support.pointers

    @property
    def indices(self) -> Int[Tensor, "nnz"]:
        return self.support.indices

    @property
    def d_sae(self) -> int:
        return self.support.n_latents

    @property
    def n_tokens(self) -> int:
        return self.support.n_rows

    @property
    def nnz(self) -> int:
        return self.support.nnz

    def rows(self) -> Int[Tensor, "nnz"]:
        """The token of every entry."""
        return self.support.rows

    def dense(self) -> Float[Tensor, "tokens d_sae"]:
        """All latents of all tokens; differentiable in the values. 4·tokens·d_sae bytes: ask for it only where small."""
        out = self.values.new_zeros(self.n_tokens, self.d_sae)
        return out.index_put((self.rows(), self.indices), self.values)

    def row(self, token: int) -> tuple[Int[Tensor, "active"], Float[Tensor, "active"]]:
        """The active latents of one token and their values."""
        piece = slice(int(self.pointers[token]), int(self.pointers[token + 1]))
        return self.indices[piece], self.values[piece]

    def without_zeros(self) -> Codes:
        """The entries whose value is not zero."""
        kept = self.values != 0
        return Codes(self.support.where(kept), self.values[kept])

    @staticmethod
    def from_dense(dense: Float[Tensor, "tokens d_sae"]) -> Codes:
        """The non-zero entries of a dense matrix."""
        if dense.ndim != 2:
            raise CoderError(f"codes are [tokens, d_sae], got shape {list(dense.shape)}")
        rows, indices = dense.nonzero(as_tuple=True)
        return Codes(Support.from_rows(rows, indices, dense.shape[0], dense.shape[1]), dense[rows, indices])
