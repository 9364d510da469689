"""Dead latents started again on what is reconstructed worst (Bricken et al., 2023, "Towards Monosemanticity").

AuxK revives latents a little at every step; resampling replaces them at chosen moments. A dead latent's decoder row becomes
the target of a token drawn in proportion to the square of its squared error, its encoder row the direction of that token's
input at a fifth of the living rows' length, its bias a fifth of theirs; the optimiser forgets what it knew of it.

No token is drawn twice: two latents that start alike get the same gradients and stay alike. Where more latents are dead than
a batch has tokens, some of them, drawn too, are left for the next time.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
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
) -> Int[Tensor, "n"]:
    """Restart the `dead` latents on a batch of normalised activations, in place. Returns those that were: none where none is
    dead, and none where all are, because nothing tells how strong a living one is."""
    where = dead.nonzero().squeeze(1)
    if where.numel() == 0 or where.numel() == coder.d_sae:
        return where[:0]
    error = (y - coder.decode(coder.encode(x), x)).pow(2).sum(1).cpu().double()
    generator = torch.Generator().manual_seed(seed)
    if where.numel() > x.shape[0]:
        where = where[torch.randperm(where.numel(), generator=generator)[: x.shape[0]].sort().values.to(where.device)]
    # An error that is no number is the training loop's to refuse.
    chances = error.square().nan_to_num(nan=0, posinf=0) + 1e-30
    drawn = torch.multinomial(chances, where.numel(), replacement=False, generator=generator).to(x.device)
    living = ~dead
    length = _SHARE_OF_LENGTH * coder.W_enc_rows[living].norm(dim=1).mean()
    coder.W_enc_rows[where] = _unit(coder.centred(x)[drawn]) * length
    coder.W_dec[where] = _unit((y - coder.b_dec)[drawn])
    coder.b_enc[where] = _SHARE_OF_LENGTH * coder.b_enc[living].mean()
    coder.architecture.restart(coder, where, living, _SHARE_OF_LENGTH)
    optimiser.forget(where)
    return where


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-8)
    return unit
