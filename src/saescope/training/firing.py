"""Which latents have been silent for how long."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.coders import Codes
from saescope.kernels import active

# Steps after which a GPU is asked again which latents are dead: it has to be waited for, and few change in between.
_ASK_EVERY = 16


class FiringRecord:
    """Tokens since each latent last fired, from the codes' indices alone. silent [d_sae] int64.

    `ask_every`: for so many steps `dead_list` stands; by default 1 on a processor, else 16.
    """

    def __init__(self, d_sae: int, device: torch.device | str = "cpu", *, ask_every: int | None = None) -> None:
        self.silent: Int[Tensor, "d_sae"] = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._ask_every = ask_every or (1 if self.silent.device.type == "cpu" else _ASK_EVERY)
        # No latent is silent for longer. Known here, so that a GPU need not be asked before anything can be dead.
        self._at_most = 0
        self._dead_list: Int[Tensor, "n_dead"] = self.silent.new_zeros(0)

    @torch.no_grad()
    def update(self, codes: Codes) -> None:
        """Account for one batch. A chosen latent whose value is zero has not fired."""
        fired = active(codes.values.device).latent_sum(codes.support, (codes.values > 0).float())
        self.silent.add_(codes.n_tokens).masked_fill_(fired > 0, 0)
        self._at_most += codes.n_tokens

    def dead(self, horizon: int) -> Bool[Tensor, "d_sae"]:
        """Latents silent for at least `horizon` tokens."""
        return self.silent >= horizon

    def dead_list(self, horizon: int, step: int) -> Int[Tensor, "n_dead"]:
        """The same by number, as of the last step that `ask_every` divides."""
        if step % self._ask_every == 0:
            some = self._at_most >= horizon
            self._dead_list = self.dead(horizon).nonzero().squeeze(1) if some else self.silent.new_zeros(0)
        return self._dead_list

    def restarted(self, latents: Int[Tensor, "n"]) -> None:
        """Count these as having just fired."""
        self.silent[latents] = 0
        self._dead_list = self._dead_list[~torch.isin(self._dead_list, latents)]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        return {"silent": self.silent, "dead_list": self._dead_list}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.silent.copy_(tensors["silent"])
        self._at_most = int(self.silent.max())
        self._dead_list = tensors["dead_list"].to(self.silent)
