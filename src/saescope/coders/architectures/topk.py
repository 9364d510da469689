"""TopK: the k largest pre-activations of each token (Gao et al., 2024).

    f = relu(pre) at the token's k largest entries, 0 elsewhere

The same rule in training and in use: every token has at most k active latents, however rich or poor it is.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saescope.coders.architecture import Architecture, Options, TrainingPass, register
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.kernels import active


class TopKOptions(Options):
    k: int = Field(default=32, gt=0, description="number of active latents per token")


@register
class TopK(Architecture):
    name = "topk"
    inference = "topk"
    ranks = True
    options_type = TopKOptions
    options: TopKOptions

    def choose(
        self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], k: int, selection: torch.dtype | None
    ) -> Codes:
        """Each token's k strongest latents, values carrying gradient."""
        kernels = active(coder.device)
        return coder.chosen(x, lambda pre: kernels.select_topk(pre, k, dtype=selection))

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        return self.choose(coder, x, self.options.k, None).without_zeros()

    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        codes = self.choose(coder, x, self.options.k, selection)
        return TrainingPass(codes, coder.rest(x))

    def inference_options(self) -> dict[str, Any]:
        return {"k": self.options.k}

    def file_entries(self) -> dict[str, Any]:
        return {"k": self.options.k, "rescale_acts_by_decoder_norm": False}
