"""From a coder as trained to a coder for use: norms and normalisation folded into the weights.

Order (fixed decision of the design): decoder norms, then normalisation, then, for threshold architectures and scalar-normalised
top-k (coders of one written point), rescaling to unit decoder rows. All
of it in float64, rounded once. The function computed does not change:

    fold(c).encode(x) = c.encode(n_in(x)) · s,     fold(c).decode(·) = n_out⁻¹(c.decode(·))

with n the normalisation and s the per-latent factor that makes decoder rows unit vectors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders.architecture import make_architecture
from saescope.coders.coder import SparseCoder
from saescope.coders.normalization import Normalization
from saescope.errors import CoderError


@torch.no_grad()
def fold(coder: SparseCoder, reads: Normalization, writes: Normalization) -> SparseCoder:
    """The coder that does on raw activations what `coder` does on normalised ones, in its inference architecture.

    Raises `CoderError` for a skip connection beside b_dec taken from the input: b_dec would have to be two things.
    """
    if coder.W_skip is not None and coder.apply_b_dec_to_input:
        raise CoderError("a coder with a skip connection and apply_b_dec_to_input has no form on raw activations")
    architecture = coder.architecture
    inference = make_architecture(architecture.inference, coder.d_sae, architecture.inference_options())
    folded = SparseCoder(
        inference,
        coder.reads,
        coder.writes,
        skip=coder.W_skip is not None,
        apply_b_dec_to_input=coder.apply_b_dec_to_input,
    )
    W_enc, b_enc = coder.W_enc_rows.double(), coder.b_enc.double()
    W_dec, b_dec = coder.W_dec.double(), coder.b_dec.double()
    mean_in, scale_in = reads.mean.double(), reads.scale.double()
    mean_out, scale_out = writes.mean.double(), writes.scale.double()

    raw_b_dec = b_dec / scale_out + mean_out
    moved = torch.zeros_like(b_enc)
    if not coder.apply_b_dec_to_input:
        # pre = scale·(x - mean)·W + b: the mean moves into the bias. With b_dec subtracted from the input instead,
        # scale·(x - mean) - b_dec = scale·(x - raw_b_dec), and raw_b_dec carries the mean.
        moved = -(W_enc @ (scale_in * mean_in))
    W_enc = W_enc * scale_in
    W_dec = W_dec / scale_out
    if coder.W_skip is not None and folded.W_skip is not None:
        W_skip = coder.W_skip.double() / scale_out[:, None] * scale_in
        raw_b_dec = raw_b_dec - W_skip @ mean_in
        folded.W_skip.copy_(W_skip)

    norms = W_dec.norm(dim=1).clamp(min=1e-30)
    if inference.ranks and len(coder.writes) > 1:
        # Scales differ between the points written, so rows may differ in length: rescaling would change who wins.
        norms = torch.ones_like(norms)
    folded.W_enc_rows.copy_(W_enc * norms[:, None])
    folded.b_enc.copy_((b_enc + moved) * norms)
    folded.W_dec.copy_(W_dec / norms[:, None])
    folded.b_dec.copy_(raw_b_dec)
    for name, value in architecture.inference_tensors(coder, norms, moved).items():
        folded.extra(name).copy_(value)
    folded.metadata = coder.metadata.model_copy(deep=True)
    folded.metadata.levels = architecture.levels()
    return folded


@torch.no_grad()
def unfold(coder: SparseCoder, into: SparseCoder, reads: Normalization, writes: Normalization) -> None:
    """Copy a folded coder's weights into one in training on normalised activations: the inverse of `fold`, decoder rows
    kept unit. Where both choose latents in the same way (thresholds, gates), that is carried over too."""
    mean_in, scale_in = reads.mean.double(), reads.scale.double()
    mean_out, scale_out = writes.mean.double(), writes.scale.double()
    W_enc = coder.W_enc_rows.double() / scale_in
    W_dec = coder.W_dec.double() * scale_out
    b_enc, b_dec = coder.b_enc.double(), coder.b_dec.double()
    moved = torch.zeros_like(b_enc)
    if coder.apply_b_dec_to_input != into.apply_b_dec_to_input:
        shift = coder.W_enc_rows.double() @ b_dec
        moved = -shift if coder.apply_b_dec_to_input else shift
    if not into.apply_b_dec_to_input:
        moved = moved + W_enc @ (scale_in * mean_in)
    if coder.W_skip is not None and into.W_skip is not None:
        b_dec = b_dec + coder.W_skip.double() @ mean_in
        into.W_skip.copy_(coder.W_skip.double() * scale_out[:, None] / scale_in)
    norms = W_dec.norm(dim=1).clamp(min=1e-30)
    into.W_enc_rows.copy_(W_enc * norms[:, None])
    into.b_enc.copy_((b_enc + moved) * norms)
    into.W_dec.copy_(W_dec / norms[:, None])
    into.b_dec.copy_((b_dec - mean_out) * scale_out)
    if into.architecture.inference == coder.architecture.name:
        for name, value in coder.architecture.inference_tensors(coder, norms, moved).items():
            if name in into.extra_names:
                into.extra(name).copy_(value)


def decoder_norms(coder: SparseCoder) -> Float[Tensor, "d_sae"]:
    """‖W_dec row‖, the weight by which a latent's activation counts."""
    norms: Tensor = coder.W_dec.detach().norm(dim=1)
    return norms
