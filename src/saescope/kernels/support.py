"""Which latents are active where: the sparsity pattern that every kernel works on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Support:
    """A compressed-row pattern: row r owns entries `pointers[r]:pointers[r + 1]`.

    A row is whatever is summed into one output: a token, or a token's part that belongs to one level of a
    Matryoshka coder. Entries of a row carry distinct latents.

    Shapes: pointers [rows + 1] int64, indices [nnz] int64 with values in [0, n_latents).
    """

    pointers: Int[Tensor, "rows_plus_one"]
    indices: Int[Tensor, "nnz"]
    n_latents: int

    @property
    def n_rows(self) -> int:
        return self.pointers.numel() - 1

    @property
    def nnz(self) -> int:
        return self.indices.numel()

    @cached_property
    def rows(self) -> Int[Tensor, "nnz"]:
        """The row of every entry."""
        lengths = self.pointers[1:] - self.pointers[:-1]
        return torch.repeat_interleave(torch.arange(self.n_rows, device=self.indices.device), lengths)

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, "nnz"], Int[Tensor, "latents_plus_one"]]:
        """The entries in latent order and where each latent's run of them starts: the pattern, transposed."""
        # The narrowest integer that holds a latent sorts several times faster than int64.
        narrow = torch.int16 if self.n_latents <= 2**15 else torch.int32
        order = torch.argsort(self.indices.to(narrow), stable=True)
        offsets = torch.zeros(self.n_latents + 1, dtype=torch.int64, device=self.indices.device)
        torch.cumsum(torch.bincount(self.indices, minlength=self.n_latents), 0, out=offsets[1:])
        return order, offsets

    def regroup(self, pointers: Int[Tensor, "rows_plus_one"]) -> Support:
        """The same entries in the same order, cut into other rows; the latent order is shared, not computed again."""
        other = Support(pointers, self.indices, self.n_latents)
        other.__dict__["by_latent"] = self.by_latent
        return other

    def where(self, kept: Bool[Tensor, "nnz"]) -> Support:
        """The entries for which `kept` holds."""
        if bool(kept.all()):
            return self
        before = torch.zeros(self.nnz + 1, dtype=torch.int64, device=kept.device)
        torch.cumsum(kept, 0, out=before[1:])
        return Support(before[self.pointers], self.indices[kept], self.n_latents)

    @staticmethod
    def from_rows(rows: Int[Tensor, "nnz"], indices: Int[Tensor, "nnz"], n_rows: int, n_latents: int) -> Support:
        """From the (ascending) row of every entry."""
        pointers = torch.zeros(n_rows + 1, dtype=torch.int64, device=indices.device)
        torch.cumsum(torch.bincount(rows, minlength=n_rows), 0, out=pointers[1:])
        support = Support(pointers, indices, n_latents)
        support.__dict__["rows"] = rows
        return support
