"""How often and how strongly latents fire: L0, L1, density, dead and dense latents."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.coders import Codes
from saescope.evaluation.documents import DocumentSums

DENSE = 0.1


class FiringSums:
    """Accumulates the codes of any number of batches. norms [d_sae]: ‖W_dec row‖, by which an activation counts."""

    def __init__(self, norms: Float[Tensor, "d_sae"], documents: DocumentSums) -> None:
        self.norms = norms.detach().cpu().double()
        self.documents = documents
        self.counts = torch.zeros(norms.numel(), dtype=torch.int64)
        self.n_tokens = 0
        self.magnitude = 0.0

    def update(self, codes: Codes, document: Int[Tensor, "tokens"]) -> None:
        # An entry of value zero is on the support without firing.
        fires = codes.values.detach() != 0
        latent, values, rows = (part[fires].cpu() for part in (codes.indices, codes.values.detach(), codes.rows()))
        self.counts += torch.bincount(latent, minlength=self.counts.numel())
        self.magnitude += float((values.double().abs() * self.norms[latent]).sum())
        self.n_tokens += codes.n_tokens
        self.documents.add("active", document, torch.bincount(rows, minlength=codes.n_tokens))

    @property
    def density(self) -> Float[Tensor, "d_sae"]:
        """The fraction of tokens on which each latent fires."""
        return self.counts.double() / max(self.n_tokens, 1)

    def metrics(self) -> dict[str, float | None]:
        n = max(self.n_tokens, 1)
        return {
            "l0": float(self.counts.sum()) / n,
            "l1": self.magnitude / n,
            "dead_fraction": float((self.counts == 0).double().mean()),
            "dense_10": float((self.density > DENSE).double().mean()),
        }
