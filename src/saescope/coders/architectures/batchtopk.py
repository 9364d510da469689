"""BatchTopK: the k·batch largest pre-activations of the whole batch (Bussmann et al., 2024).

    training:   f = relu(pre) at the k·T largest entries of the [T, d_sae] batch, 0 elsewhere
    inference:  f = relu(pre) · [pre > threshold], so that a token's codes do not depend on its batch

Tokens share a budget: a rich token takes more than k latents, a poor one fewer; the mean is k. The threshold is the value
that gives mean L0 = k on training data: a running mean of each batch's smallest chosen value while training, settled on
a sample of training activations at the end.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saescope.coders.architecture import Architecture, Options, TrainingPass, register
from saescope.coders.architectures.jumprelu import encode_above
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.errors import UsageError
from saescope.kernels import active, decode_from

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

    def check(self) -> None:
        if self.options.k > self.d_sae:
            raise UsageError(f"k = {self.options.k} is more than the {self.d_sae} latents of d_sae; choose k <= d_sae")

    def extra_tensors(self) -> dict[str, Tensor]:
        # Float64, and a weight beside the sum, so that the mean is unbiased from the first step on.
        return {
            "threshold_sum": torch.zeros((), dtype=torch.float64),
            "threshold_weight": torch.zeros((), dtype=torch.float64),
        }

    def threshold(self, coder: SparseCoder) -> Float[Tensor, "d_sae"]:
        """The current estimate, the same for all latents."""
        total, weight = coder.get_buffer("threshold_sum"), coder.get_buffer("threshold_weight")
        value = total / weight.clamp(min=1e-12)
        return value.to(coder.dtype).expand(self.d_sae)

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        return encode_above(coder, x, self.threshold(coder))

    def choose(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], selection: torch.dtype) -> Codes:
        """The batch's k·T strongest latents, values carrying gradient."""
        with torch.no_grad():
            support = active().select_batch_topk(
                coder.centred(x), coder.W_enc_rows, coder.b_enc, self.options.k * x.shape[0], dtype=selection
            )
        return Codes(support, coder.values_on(support, x))

    def training_pass(
        self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], selection: torch.dtype
    ) -> TrainingPass:
        codes = self.choose(coder, x, selection)
        decoded = decode_from(codes.support, codes.values, coder.W_dec)
        return TrainingPass(codes, decoded.unsqueeze(1), coder.b_dec + coder.skip(x))

    @torch.no_grad()
    def after_pass(self, coder: SparseCoder, done: TrainingPass, step: int) -> None:
        values = done.codes.values
        positive = values[values > 0]
        if positive.numel():
            coder.get_buffer("threshold_sum").mul_(_MEMORY).add_(positive.min().double(), alpha=1 - _MEMORY)
            coder.get_buffer("threshold_weight").mul_(_MEMORY).add_(1 - _MEMORY)

    def inference_tensors(self, coder: SparseCoder, norms: Float[Tensor, "d_sae"]) -> dict[str, Float[Tensor, "..."]]:
        return {"threshold": self.threshold(coder).double() * norms}

    @torch.no_grad()
    def calibrate(self, coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]]) -> None:
        # The threshold halfway between the last chosen and the first unchosen value of the pooled sample. Each batch
        # yields its 2·k·T strongest, which surely include the pooled sample's k·N strongest unless batches differ wildly.
        strongest = []
        for x in batches:
            support = active().select_batch_topk(
                coder.centred(x), coder.W_enc_rows, coder.b_enc, 2 * self.options.k * x.shape[0]
            )
            strongest.append(coder.values_on(support, x))
        pooled = torch.cat(strongest) if strongest else torch.zeros(0)
        wanted = self.options.k * sum(x.shape[0] for x in batches)
        if pooled.numel() == 0:
            return
        if pooled.numel() <= wanted:
            value = torch.zeros((), dtype=torch.float64)
        else:
            top = pooled.double().topk(wanted + 1).values
            value = (top[-1] + top[-2]) / 2
        coder.get_buffer("threshold_sum").copy_(value)
        coder.get_buffer("threshold_weight").fill_(1.0)
