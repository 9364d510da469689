"""Which latents have been silent for how long."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.coders import Codes
from saescope.kernels import active


class FiringRecord:
    """Tokens since each latent last fired, from the codes' indices alone. silent [d_sae] int64."""

    def __init__(self, d_sae: int, device: torch.device | str = "cpu") -> None:
        self.silent: Int[Tensor, "d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)
        # No latent is silent for longer. Known here, so that a GPU need not be asked before anything can be dead.
        self._at_most = 0

    @torch.no_grad()
    def update(self, codes: Codes) -> None:
        """Account for one batch. A chosen latent whose value is zero has not fired."""
        fired = active(codes.values.device).latent_sum(codes.support, (codes.values > 0).float())
        self.silent.add_(codes.n_tokens).masked_fill_(fired > 0, 0)
        self._at_most += codes.n_tokens

    def load(self, silent: Int[Tensor, "d_sae"]) -> None:
        """Take over another record."""
        self.silent.copy_(silent)
        self._at_most = int(silent.max())

    def any_dead(self, horizon: int) -> bool:
        """Whether any latent could be dead; True may be wrong, False is not."""
        return self._at_most >= horizon

    def dead(self, horizon: int) -> Bool[Tensor, "d_sae"]:
        """Latents silent for at least `horizon` tokens."""
        return self.silent >= horizon
