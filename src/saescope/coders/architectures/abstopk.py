"""AbsTopK: the k largest pre-activations of each token in magnitude, signs kept (SAELens; sparsify's `signed`). Run only.

    f = pre at the token's k largest |pre|, 0 elsewhere

A latent may be active in either direction, so values may be negative.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders.architecture import RunOnly, register
from saescope.coders.architectures.topk import TopKOptions
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.kernels import Encoding, Support, token_chunks


@register
class AbsTopK(RunOnly):
    name = "abstopk"
    inference = "abstopk"
    ranks = True
    options_type = TopKOptions
    options: TopKOptions

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        with torch.no_grad():
            support = _largest(coder.encoding(x), self.options.k)
        return Codes(support, coder.preactivations_on(support, x)).without_zeros()

    def inference_options(self) -> dict[str, Any]:
        return {"k": self.options.k}

    def file_entries(self) -> dict[str, Any]:
        return {"k": self.options.k, "rescale_acts_by_decoder_norm": False}


def _largest(pre: Encoding, k: int) -> Support:
    """Each token's k entries of largest magnitude, found in chunks of tokens."""
    chosen = []
    step = token_chunks(pre.n_tokens, pre.n_latents, pre.x.dtype, pre.device).step
    for part in pre.x.split(step):
        magnitude = torch.addmm(pre.bias, part, pre.weight.T).abs()
        chosen.append(magnitude.topk(k, dim=1).indices.sort(dim=1).values)
    indices = torch.cat(chosen).flatten() if chosen else torch.zeros(0, dtype=torch.int64, device=pre.device)
    pointers = torch.arange(pre.n_tokens + 1, device=pre.device) * k
    return Support(pointers, indices, pre.n_latents)
