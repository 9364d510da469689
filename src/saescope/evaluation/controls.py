"""What a coder must beat: random directions with its sparsity, principal components and the model's own dimensions with its
number of latents.

    frozen_random   x̂ = m + s·Σ f_i w_i,  f_i = pre_i·[pre_i > θ],  pre_i = w_i·(x - m)
                    w_i unit Gaussian directions, θ such that mean L0 is the coder's, s by least squares; nothing trained
    pca             x̂ = m + C_kᵀ C_k (x - m)
                    C_k the first k principal components of training activations, k the coder's L0, rounded
    neurons         x̂_i = x_i where |x_i - m_i| is among the token's k largest, m_i elsewhere: the model's own basis

m is the mean training activation. θ, s and k are settled on a sample of the evaluation activations, spread over the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders import Codes, SparseCoder, make_architecture
from saescope.coders.calibration import best_factor
from saescope.evaluation.subject import Subject
from saescope.lm import exact_float

_CHUNK_ELEMENTS = 2**23
# Candidates kept of each chunk, as a multiple of its even share of the strongest.
_SURPLUS = 4


@dataclass(frozen=True)
class Output:
    """A reconstruction, and the codes it came from where there are any."""

    x_hat: Float[Tensor, "tokens d_out"]
    codes: Codes | None


class Reconstructor(Protocol):
    """Anything measured in the table: the coder itself or a control. `facts` go into its record."""

    facts: dict[str, Any]

    def reconstruct(self, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Output:
        """From what the coder reads, `x`; `y` is what should come out."""
        ...


@dataclass
class Coded:
    """A sparse coder, trained or not."""

    coder: SparseCoder
    facts: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Output:
        codes = self.coder.encode(x)
        return Output(self.coder.decode(codes, x), codes)


@dataclass
class Projection:
    """Onto the span of the components about the mean: a reconstruction of `y` from k numbers."""

    mean: Float[Tensor, "d"]
    components: Float[Tensor, "k d"]
    facts: dict[str, Any] = field(default_factory=dict)

    def reconstruct(self, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Output:
        centred = y.to(self.mean) - self.mean
        return Output(self.mean + (centred @ self.components.T) @ self.components, None)


@dataclass
class OwnBasis:
    """The k dimensions of each token that lie furthest from the mean, the mean elsewhere."""

    mean: Float[Tensor, "d"]
    k: int
    facts: dict[str, Any] = field(default_factory=dict)

    def reconstruct(self, x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Output:
        y = y.to(self.mean)
        strongest = (y - self.mean).abs().topk(self.k, dim=1).indices
        return Output(self.mean.expand_as(y).scatter(1, strongest, y.gather(1, strongest)), None)


@dataclass(frozen=True)
class Absent:
    """A control that cannot be had here, and why."""

    reason: str


@torch.no_grad()
def mean_l0(coder: SparseCoder, sample: Float[Tensor, "tokens d_in"]) -> float:
    """The L0 that the controls of a coder should have: its own on the sample that they are fitted on."""
    active = sum(int((coder.encode(part).values != 0).sum()) for part in sample.split(4096))
    return active / max(1, sample.shape[0])


@torch.no_grad()
def frozen_random(
    subject: Subject, sample: Float[Tensor, "tokens d_in"], l0: float, *, seed: int = 0
) -> Coded | Absent:
    """The untrained coder with the subject's shape and `l0` on `sample`."""
    coder = subject.coder
    if coder.reads != coder.writes:
        return Absent("frozen_random ties its encoder to its decoder, which needs a coder that writes what it reads")
    sample = sample.to(coder.device, torch.float32)
    trained_mean = subject.training_mean(coder.reads)
    mean = sample.mean(0) if trained_mean is None else trained_mean.to(coder.device)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(coder.d_sae, coder.d_in, generator=generator).to(coder.device)
    directions /= directions.norm(dim=1, keepdim=True)
    random = SparseCoder(make_architecture("jumprelu", coder.d_sae, {}), coder.reads, coder.writes, device=coder.device)
    random.W_enc_rows.copy_(directions)
    random.W_dec.copy_(directions)
    random.b_dec.copy_(mean)
    threshold = _threshold(sample - mean, directions, l0)
    random.extra("threshold").fill_(threshold)
    scale = _scale(random, sample, mean)
    random.W_dec.mul_(scale)
    facts = {
        "seed": seed,
        "threshold": threshold,
        "scale": scale,
        "fitted_on_tokens": sample.shape[0],
        "mean": "training" if trained_mean is not None else "sample of the evaluation set",
    }
    return Coded(random.eval(), facts)


@torch.no_grad()
def pca(subject: Subject, l0: float) -> Projection | Absent:
    """The first round(l0) principal components of what the subject writes."""
    coder = subject.coder
    if len(coder.writes) > 1:
        return Absent("principal components were measured for single hook points, and this coder writes several")
    point = coder.writes[0].point
    mean, components = subject.training_mean(coder.writes), subject.reference.get(f"components.{point}")
    if mean is None or components is None:
        return Absent(f"the coder came without mean and principal components of its training activations at {point}")
    k = round(l0)
    if k > components.shape[0]:
        return Absent(f"the coder's L0 is {l0:.0f}, its reference file has {components.shape[0]} principal components")
    facts = {"k": k} | _seen(coder)
    return Projection(mean.to(coder.device), components[:k].float().to(coder.device), facts)


@torch.no_grad()
def neurons(subject: Subject, sample: Float[Tensor, "tokens d_in"], l0: float) -> OwnBasis | Absent:
    """round(l0) of the dimensions of what the subject writes, chosen anew for each token. `sample`: of what it reads."""
    coder = subject.coder
    k = round(l0)
    if not 0 < k <= coder.d_out:
        return Absent(f"the coder's L0 is {l0:.1f}, the point it writes has {coder.d_out} dimensions")
    mean = subject.training_mean(coder.writes)
    facts: dict[str, Any] = {"k": k, "mean": "training"} | _seen(coder)
    if mean is None:
        if coder.reads != coder.writes:
            return Absent("the coder came without the mean of its training activations")
        mean, facts["mean"] = sample.float().mean(0), "sample of the evaluation set"
    return OwnBasis(mean.to(coder.device), k, facts)


def _seen(coder: SparseCoder) -> dict[str, Any]:
    """What is unfair to a transcoder in a control that starts from the coder's target."""
    if coder.reads == coder.writes:
        return {}
    return {"note": "sees the very activations it reconstructs, which the transcoder does not"}


def _chunks(x: Float[Tensor, "tokens d"], d_sae: int) -> Iterator[Float[Tensor, "chunk d"]]:
    yield from x.split(max(1, _CHUNK_ELEMENTS // d_sae))


def _threshold(centred: Float[Tensor, "tokens d"], directions: Float[Tensor, "d_sae d"], l0: float) -> float:
    """Half way between the round(l0·tokens)-th largest product and the next; never below zero.

    Each chunk gives four times its share of candidates; tokens are shuffled first, so that no chunk needs more.
    """
    order = torch.randperm(centred.shape[0], generator=torch.Generator().manual_seed(0)).to(centred.device)
    wanted = round(l0 * centred.shape[0])
    candidates = []
    for part in _chunks(centred[order], directions.shape[0]):
        products = (part @ directions.T).flatten()
        share = int(_SURPLUS * l0 * part.shape[0]) + 1
        candidates.append(products.topk(min(share, products.numel()), sorted=False).values)
    pooled = torch.cat(candidates)
    if wanted == 0 or wanted >= pooled.numel():
        return float(pooled.max()) if wanted == 0 else 0.0
    top = pooled.topk(wanted + 1).values
    return max(0.0, (float(top[-1]) + float(top[-2])) / 2)


def _scale(random: SparseCoder, sample: Float[Tensor, "tokens d"], mean: Float[Tensor, "d"]) -> float:
    """argmin_s Σ‖x - m - s·r‖² with r the unscaled reconstruction about m."""
    exact = exact_float(sample.device)
    centre = mean.to(exact)
    parts = _chunks(sample, random.d_sae)
    return (
        best_factor((part.to(exact) - centre, random.decode(random.encode(part)).to(exact) - centre) for part in parts)
        or 1.0
    )
