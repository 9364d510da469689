"""What a coder on synthetic activations stands between: the oracle above, chance below.

    oracle          the true directions and offset, and the true activations of the features it has: nothing encodes better
    frozen_random   random directions with the coder's L0, nothing trained (`evaluation.controls`)

With fewer latents than features the oracle has the most frequent ones.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders import Codes, Slice, SparseCoder, make_architecture
from saescope.errors import UsageError
from saescope.evaluation.controls import Coded, frozen_random
from saescope.evaluation.subject import Subject
from saescope.evaluation.synthetic.ground_truth import GroundTruth, Sample
from saescope.evaluation.synthetic.recovery import Encode
from saescope.evaluation.synthetic.stream import POINT


@torch.no_grad()
def oracle(truth: GroundTruth, d_sae: int | None = None) -> tuple[SparseCoder, Encode]:
    """The coder and the encoder that sees the features themselves. At most as many latents as features."""
    coder = untrained(truth, min(d_sae or truth.n_features, truth.n_features))
    frequent = truth.forest.rate.argsort(descending=True, stable=True)[: coder.d_sae].sort().values
    coder.W_dec.copy_(truth.directions[frequent])
    coder.W_enc_rows.copy_(coder.W_dec)
    coder.b_dec.copy_(truth.offset)
    latent = torch.full((truth.n_features,), -1, device=truth.device)
    latent[frequent] = torch.arange(coder.d_sae, device=truth.device)

    def encode(sample: Sample) -> Codes:
        found = latent[sample.features.indices]
        known = found >= 0
        support = sample.features.support.where(known)
        return Codes(type(support)(support.pointers, found[known], coder.d_sae), sample.features.values[known])

    return coder, encode


def chance(
    truth: GroundTruth, d_sae: int, l0: float, sample: Float[Tensor, "tokens d_in"], seed: int = 0
) -> SparseCoder:
    """The `frozen_random` control of this shape and L0, settled on `sample`."""
    found = frozen_random(Subject(untrained(truth, d_sae)), sample, l0, seed=seed)
    if not isinstance(found, Coded):
        raise UsageError(found.reason)
    return found.coder


def untrained(truth: GroundTruth, d_sae: int) -> SparseCoder:
    """A coder of zeros of this shape, with a threshold."""
    place = (Slice(point=POINT, width=truth.directions.shape[1]),)
    coder = SparseCoder(make_architecture("jumprelu", d_sae, {}), place, place, device=truth.device)
    return coder.eval().requires_grad_(False)
