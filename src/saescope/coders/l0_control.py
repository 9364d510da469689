"""A sparsity penalty whose weight finds itself: it rises while too many latents are active and falls while too few are.

The weight λ is the price of an active latent. Each step multiplies it by (L0 / wanted)^gain, so that it settles where L0 is
as wanted, and the penalty of a step counts L0's present excess at once (a proportional term, which keeps the price from
swinging). The gain follows from the run's length: in a tenth of a run of 300 steps or more the price can double three times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saescope.coders.architecture import Architecture, Options, TrainingPass

if TYPE_CHECKING:
    from saescope.coders.coder import SparseCoder

# How many times the price doubles in a run that always has twice the wanted L0; no step takes more than _MOST of one.
_REACH = 30.0
_MOST = 0.1
# The price heeds at most this ratio of L0 to the wanted one, so that the dense first steps do not drive it up.
_HEEDED = 2.0


class SteeredOptions(Options):
    """Options of architectures whose L0 follows from a penalty."""

    l0: float = Field(default=32.0, gt=0, description="wanted mean number of active latents per token")
    coefficient: float | None = Field(
        default=None, gt=0, description="fixed weight of the sparsity penalty; by default it is steered to reach l0"
    )


class SteeredArchitecture(Architecture):
    """An architecture whose penalty is weighed by `price`; what is common to `standard`, `gated` and `jumprelu`."""

    l0_option = "l0"
    options_type = SteeredOptions
    options: SteeredOptions

    def extra_tensors(self) -> dict[str, Tensor]:
        one = torch.ones((), dtype=torch.float64)
        return super().extra_tensors() | {"price_level": one.clone(), "price_ratio": one.clone()}

    @property
    def steered(self) -> bool:
        """Whether L0 is to be as wanted, rather than fall where a fixed coefficient puts it."""
        return self.options.coefficient is None

    def set_price(self, coder: SparseCoder, value: float) -> None:
        """Where steering starts."""
        coder.extra("price_level").fill_(value)

    def price(self, coder: SparseCoder) -> Float[Tensor, ""]:
        """The present weight of the penalty, a constant of the step."""
        if self.options.coefficient is not None:
            return torch.tensor(self.options.coefficient, dtype=coder.dtype, device=coder.device)
        return (coder.extra("price_level") * coder.extra("price_ratio")).to(coder.dtype)

    @torch.no_grad()
    def after_step(self, coder: SparseCoder, done: TrainingPass, step: int, n_steps: int) -> None:
        ratio = (done.l0.to(coder.extra("price_ratio")) / self.wanted_l0).clamp(1 / _HEEDED, _HEEDED)
        coder.extra("price_level").mul_(ratio ** min(_MOST, _REACH / n_steps))
        coder.extra("price_ratio").copy_(ratio)
        super().after_step(coder, done, step, n_steps)
