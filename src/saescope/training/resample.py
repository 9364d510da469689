"""Dead latents started again on what is reconstructed worst (Bricken et al., 2023, "Towards Monosemanticity").

AuxK revives latents a little at every step; resampling replaces them at chosen moments. A dead latent's decoder row becomes
the target of a token drawn in proportion to its squared error, its encoder row the direction of that token's input at a
fifth of the living rows' length, its bias a fifth of theirs; the optimiser forgets what it knew of it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.coders import SparseCoder
from saescope.training.optimiser import CoderOptimiser

_SHARE_OF_LENGTH = 0.2


@torch.no_grad()
def resample(
    coder: SparseCoder,
    optimiser: CoderOptimiser,
    x: Float[Tensor, "tokens d_in"],
    y: Float[Tensor, "tokens d_out"],
    dead: Bool[Tensor, "d_sae"],
    seed: int,
) -> int:
    """Restart the `dead` latents on a batch of normalised activations, in place. Returns how many there were."""
    where = dead.nonzero().squeeze(1)
    if where.numel() == 0 or where.numel() == coder.d_sae:
        return 0
    error = (y - coder.decode(coder.encode(x), x)).pow(2).sum(1).double().cpu()
    generator = torch.Generator().manual_seed(seed)
    # Errors squared once more: a token far off draws several latents.
    drawn = torch.multinomial(error.square() + 1e-30, where.numel(), replacement=True, generator=generator).to(x.device)
    living = ~dead
    length = _SHARE_OF_LENGTH * coder.W_enc_rows[living].norm(dim=1).mean()
    coder.W_enc_rows[where] = _unit(coder.centred(x)[drawn]) * length
    coder.W_dec[where] = _unit((y - coder.b_dec)[drawn])
    coder.b_enc[where] = _SHARE_OF_LENGTH * coder.b_enc[living].mean()
    for name, initial in coder.architecture.extra_parameters().items():
        own = coder.extra(name)
        own[where] = _SHARE_OF_LENGTH * own[living].mean() if name == "threshold" else initial.to(own)[where]
    optimiser.forget(where)
    return int(where.numel())


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-8)
    return unit
