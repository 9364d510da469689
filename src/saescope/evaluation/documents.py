"""Sums per document: the unit over which intervals are bootstrapped."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class DocumentSums:
    """Named float64 sums, one row a document: [documents] or [documents, d]."""

    def __init__(self, n_documents: int) -> None:
        self.n_documents = n_documents
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, document: Int[Tensor, "tokens"], values: Float[Tensor, "tokens ..."]) -> None:
        """Add each token's value to its document's sum."""
        values = values.detach().cpu().double()
        if name not in self._sums:
            self._sums[name] = torch.zeros(self.n_documents, *values.shape[1:], dtype=torch.float64)
        self._sums[name].index_add_(0, document.cpu().long(), values)

    def count(self, name: str, document: Int[Tensor, "tokens"]) -> None:
        """Add one for every token."""
        self.add(name, document, torch.ones(document.shape[0], dtype=torch.float64))

    def share(self, name: str, other: DocumentSums) -> None:
        """Have sums of that name in common with `other`, which adds to them."""
        self._sums[name] = other[name]

    def __getitem__(self, name: str) -> Float[Tensor, "documents ..."]:
        return self._sums[name]

    def __contains__(self, name: str) -> bool:
        return name in self._sums
