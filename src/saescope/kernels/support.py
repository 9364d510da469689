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
        # Told the output's size, a GPU need not be asked for it.
        return torch.repeat_interleave(self.pointers.diff(), output_size=self.nnz)

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, "nnz"], Int[Tensor, "latents_plus_one"]]:
        """The entries in latent order and where each latent's run of them starts: the pattern, transposed."""
        # The narrowest integer that holds a latent sorts several times faster than int64.
        narrow = torch.int16 if self.n_latents <= 2**15 else torch.int32
        order = torch.argsort(self.indices.to(narrow), stable=True)
        offsets = torch.zeros(self.n_latents + 1, dtype=torch.int64, device=self.indices.device)
        # bincount would ask a GPU for the largest index, and wait for the answer.
        one = torch.ones(1, dtype=torch.int64, device=self.indices.device).expand(self.nnz)
        counts = offsets[1:].scatter_add_(0, self.indices, one)
        torch.cumsum(counts, 0, out=counts)
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
        rows = rows.contiguous()
        pointers = torch.searchsorted(rows, torch.arange(n_rows + 1, device=rows.device))
        support = Support(pointers, indices, n_latents)
        support.__dict__["rows"] = rows
        return support

    @staticmethod
    def from_flat(position: Int[Tensor, "nnz"], n_rows: int, n_latents: int) -> Support:
        """From (ascending) flat positions in [rows, latents]."""
        rows = torch.div(position, n_latents, rounding_mode="floor")
        return Support.from_rows(rows, position - rows * n_latents, n_rows, n_latents)
