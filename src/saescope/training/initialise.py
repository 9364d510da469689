"""Where a coder's weights start."""

from __future__ import annotations

import torch

from saescope.coders import Normalization, SparseCoder, load, unfold
from saescope.errors import CoderError, UsageError


@torch.no_grad()
def initialise(coder: SparseCoder, seed: int) -> None:
    """Random unit decoder rows, the encoder tied to them, zero biases.

    Where other points are written than read (a transcoder), the encoder gets random unit rows of its own. A skip connection
    starts at zero: the coder first explains what it can sparsely.
    """
    # Drawn on CPU, so that a seed means the same on every device.
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(coder.d_sae, coder.d_out, generator=generator)
    coder.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
    if coder.reads == coder.writes:
        coder.W_enc_rows.copy_(coder.W_dec)
    else:
        rows = torch.randn(coder.d_sae, coder.d_in, generator=generator)
        coder.W_enc_rows.copy_(rows / rows.norm(dim=1, keepdim=True))


def warm_start(coder: SparseCoder, source: str, reads: Normalization, writes: Normalization) -> bool:
    """Start from a saved coder's weights. Raises when its shape is not the same. Returns whether its way of choosing
    latents came along too, or has to be found again."""
    saved = load(source)
    given, wanted = (saved.d_in, saved.d_out, saved.d_sae), (coder.d_in, coder.d_out, coder.d_sae)
    if given != wanted:
        raise CoderError(
            f"cannot start from {source}: its (d_in, d_out, d_sae) is {given}, this run's is {wanted}; make them equal"
        )
    if (saved.W_skip is None) != (coder.W_skip is None):
        raise UsageError(f"cannot start from {source}: only one of the two coders has a skip connection")
    if saved.token_norm is not None:
        raise CoderError(
            f"cannot start from {source}: it normalises each token by itself ({saved.token_norm.kind}), which saescope does "
            "not train with; start from a coder of raw activations"
        )
    unfold(saved, coder, reads, writes)
    return coder.architecture.inference == saved.architecture.name
