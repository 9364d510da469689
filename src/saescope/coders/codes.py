"""Sparse codes of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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

    def detach(self) -> Codes:
        return Codes(self.support, self.values.detach())

    @staticmethod
    def from_dense(dense: Float[Tensor, "tokens d_sae"]) -> Codes:
        """The non-zero entries of a dense matrix."""
        if dense.ndim != 2:
            raise CoderError(f"codes are [tokens, d_sae], got shape {list(dense.shape)}")
        rows, indices = dense.nonzero(as_tuple=True)
        return Codes(Support.from_rows(rows, indices, dense.shape[0], dense.shape[1]), dense[rows, indices])

    @staticmethod
    def concatenate(parts: list[Codes]) -> Codes:
        """Codes of consecutive batches as one. All must have the same d_sae; at least one part."""
        widths = {part.d_sae for part in parts}
        if len(widths) != 1:
            raise CoderError(
                f"codes to concatenate have different d_sae {sorted(widths)}; they are of different coders"
            )
        lengths = torch.cat([part.pointers[1:] - part.pointers[:-1] for part in parts])
        pointers = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        indices = torch.cat([part.indices for part in parts])
        return Codes(Support(pointers, indices, widths.pop()), torch.cat([part.values for part in parts]))
