"""How far selection margins have to move for a coder to have the L0 that was asked for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.kernels import active

# Added to every margin while the strongest are looked for, because selection returns positive entries only. Exactly
# representable, and far above any margin of normalised activations that could be among the strongest.
_LIFT = 64.0


@torch.no_grad()
def margin_for_l0(
    coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]], offset: Float[Tensor, "d_sae"], l0: float
) -> float | None:
    """The value that x · W_enc + offset exceeds l0 times per token on average over `batches`; None where there are no tokens.

    Halfway between the last entry that should be active and the first that should not.
    """
    wanted = round(l0 * sum(x.shape[0] for x in batches))
    strongest = []
    for x in batches:
        # Twice the mean L0 of each batch surely includes the pooled strongest unless batches differ wildly.
        support = active().select_batch_topk(
            coder.centred(x), coder.W_enc_rows, offset + _LIFT, round(2 * l0 * x.shape[0]) + 1
        )
        products = active().sampled_product(support, coder.centred(x), coder.W_enc_rows.detach())
        strongest.append(products + offset[support.indices])
    pooled = torch.cat(strongest).double() if strongest else torch.zeros(0)
    if pooled.numel() <= wanted or wanted < 1:
        return None
    top = pooled.topk(wanted + 1).values
    return float((top[-1] + top[-2]) / 2)
