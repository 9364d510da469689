"""BatchTopK: the k·batch largest pre-activations of the whole batch (Bussmann et al., 2024).

    training:   f = relu(pre) at the k·T largest entries of the [T, d_sae] batch, 0 elsewhere
    inference:  f = relu(pre) · [pre > threshold], so that a token's codes do not depend on its batch

Tokens share a budget: a rich token takes more than k latents, a poor one fewer; the mean is k. The threshold is the value
that gives mean L0 = k: a running mean of each batch's smallest chosen value while training, settled at the end on
held-out rows, or on training rows where there are few of these.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saescope.coders.architecture import Architecture, Options, TrainingPass, register
from saescope.coders.calibration import margin_for_l0
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.kernels import active

# Each batch's smallest chosen value is a tight estimate, and it moves as training goes on: about twenty steps are remembered.
_MEMORY = 0.95


class BatchTopKOptions(Options):
    k: int = Field(default=32, gt=0, description="mean number of active latents per token")


@register
class BatchTopK(Architecture):
    name = "batchtopk"
    inference = "jumprelu"
    options_type = BatchTopKOptions
    options: BatchTopKOptions

    def extra_tensors(self) -> dict[str, Tensor]:
        # Float64, and a weight beside the sum, so that the mean is unbiased from the first step on.
        return super().extra_tensors() | {
            "threshold_sum": torch.zeros((), dtype=torch.float64),
            "threshold_weight": torch.zeros((), dtype=torch.float64),
        }

    def threshold(self, coder: SparseCoder) -> Float[Tensor, "d_sae"]:
        """The current estimate, the same for all latents."""
        total, weight = coder.extra("threshold_sum"), coder.extra("threshold_weight")
        value = total / weight.clamp(min=1e-12)
        return value.to(coder.dtype).expand(self.d_sae)

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        return coder.above(x, self.threshold(coder))

    def choose(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], selection: torch.dtype) -> Codes:
        """The batch's k·T strongest latents, values carrying gradient."""
        kernels, count = active(coder.device), self.options.k * x.shape[0]
        return coder.chosen(x, lambda pre: kernels.select_batch_topk(pre, count, dtype=selection))

    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        return TrainingPass(self.choose(coder, x, selection), coder.rest(x))

    @torch.no_grad()
    def after_step(self, coder: SparseCoder, done: TrainingPass, step: int, n_steps: int) -> None:
        super().after_step(coder, done, step, n_steps)
        values = done.codes.values
        if values.numel() == 0:
            return
        # Written without looking at a value, for which a GPU would have to be waited for.
        smallest = torch.where(values > 0, values, torch.inf).min().to(coder.extra("threshold_sum"))
        found = smallest.isfinite()
        for name, new in (("threshold_sum", smallest), ("threshold_weight", torch.ones_like(smallest))):
            kept = coder.extra(name)
            kept.copy_(torch.where(found, kept.lerp(new, 1 - _MEMORY), kept))

    def inference_tensors(
        self, coder: SparseCoder, norms: Float[Tensor, "d_sae"], moved: Float[Tensor, "d_sae"]
    ) -> dict[str, Float[Tensor, "..."]]:
        return {"threshold": self.threshold(coder).double() * norms}

    @torch.no_grad()
    def calibrate(self, coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]]) -> None:
        margin = margin_for_l0(coder, batches, coder.b_enc, self.options.k)
        if margin is not None:
            coder.extra("threshold_sum").fill_(max(0.0, margin))
            coder.extra("threshold_weight").fill_(1.0)
