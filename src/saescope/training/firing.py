"""Which latents have been silent for how long."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.coders import Codes


class FiringRecord:
    """Tokens since each latent last fired, from the codes' indices alone. silent [d_sae] int64."""

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.silent: Int[Tensor, "d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, codes: Codes) -> None:
        """Account for one batch. A chosen latent whose value is zero has not fired."""
        self.silent += codes.n_tokens
        self.silent[codes.indices[codes.values > 0]] = 0

    def dead(self, horizon: int) -> Bool[Tensor, "d_sae"]:
        """Latents silent for at least `horizon` tokens."""
        return self.silent >= horizon
