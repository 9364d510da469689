"""JumpReLU: a latent is active where its pre-activation exceeds its own threshold (Rajamanoharan et al., 2024).

    f = pre · [pre > max(threshold, 0)]

The form in which BatchTopK and Matryoshka coders are used: their batch-wide choice becomes a constant threshold.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders.architecture import Architecture, register
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.kernels import active


def encode_above(coder: SparseCoder, x: Float[Tensor, "tokens d_in"], threshold: Float[Tensor, "d_sae"]) -> Codes:
    """Codes of every latent whose pre-activation is above `threshold` and above zero."""
    with torch.no_grad():
        support = active().select_threshold(coder.centred(x), coder.W_enc_rows, coder.b_enc, threshold.to(x.dtype))
    return Codes(support, coder.values_on(support, x))


@register
class JumpReLU(Architecture):
    name = "jumprelu"
    inference = "jumprelu"
    trainable = False

    def extra_tensors(self) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(self.d_sae)}

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        return encode_above(coder, x, coder.get_buffer("threshold"))
