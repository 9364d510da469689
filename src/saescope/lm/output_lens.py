"""What a direction of the residual stream does to the output logits, with the final norm made linear: the logit lens.

nostalgebraist (2020); for feature directions as in Bricken et al. (2023). The final norm divides by the size of the whole
stream at a position. A direction alone has no such size, so only the norm's scale is kept, and for a LayerNorm the removal
of the mean:

    logits(v) = multiplier · U · (scale ⊙ (v - mean(v)))        the mean only where `centred`

up to one positive factor that a position decides and that changes no order. The norm's bias and the head's add the same to
every direction and are left out. A soft-cap on the logits (Gemma 2) is monotone: it changes no order and is left out too.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saescope.errors import ModelError

if TYPE_CHECKING:
    from interp_engine import EagerModel

_RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
_ADDED = ("attn_out_post", "mlp_out_post")
_MAYBE_ADDED = {"attn_out": "attn_out_post", "mlp_out": "mlp_out_post"}
# How far a norm may be from the linear form, relative to its own size, before it is called another kind.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class OutputLens:
    """scale [d_model]: the final norm's, in float32. centred: whether it removes the mean. unembedding [vocab, d_model]: as the
    model holds it, without the rows beyond the tokenizer. multiplier: what the family multiplies its logits by.
    soft_cap: the bound on its logits, for the record."""

    scale: Float[Tensor, "d_model"]
    centred: bool
    unembedding: Float[Tensor, "vocab d_model"]
    multiplier: float
    soft_cap: float | None

    def before_unembedding(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Directions, in float32, as the unembedding sees them: `logits = before_unembedding(v) @ unembedding.T`."""
        directions = directions.to(self.scale.device, torch.float32)
        if self.centred:
            directions = directions - directions.mean(1, keepdim=True)
        return directions * (self.scale * self.multiplier)


def output_lens(engine: EagerModel, n_tokens: int, name: str) -> OutputLens:
    """The lens of a model whose tokenizer has `n_tokens`. ModelError where its last steps are not a norm and a matrix."""
    basis = engine.residual_basis
    if not basis.lens_valid:
        raise ModelError(f"{name} has no single residual stream, so a direction has no logits: {basis.blockers[0]}")
    weight = getattr(engine.arch.lm_head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != engine.d_model:
        raise ModelError(f"{name} has no unembedding matrix of width {engine.d_model}; its head is not linear")
    scale, centred = _linear_part(engine.arch.final_norm, engine.d_model, name)
    quirks = engine.arch.quirks
    return OutputLens(
        scale.to(weight.device),
        centred,
        weight.detach()[:n_tokens],
        float(quirks.logit_multiplier or 1.0),
        quirks.final_logit_softcapping,
    )


def refusal(engine: EagerModel, point: str) -> str | None:
    """Why what is written at a point (`mlp_out`, without its layer) is not added to the residual stream; None if it is."""
    if point in _RESIDUAL or point in _ADDED:
        return None
    if point in _MAYBE_ADDED:
        if not engine.arch.quirks.sandwich_norms:
            return None
        return f"this model normalises {point} before adding it; {_MAYBE_ADDED[point]} is what it adds"
    return f"{point} is not added to the residual stream"


@torch.no_grad()
def _linear_part(norm: nn.Module, width: int, name: str) -> tuple[Float[Tensor, "width"], bool]:
    """A norm's scale, and whether it removes the mean, from what it does rather than from how its family stores it (1 + weight,
    no weight at all): a probe of mean 0 and mean square 1 passes unchanged but for scale and bias."""
    # In float32 whatever the model runs in; a copy, because hooks and dtype are the model's own.
    norm = copy.deepcopy(norm).float().cpu()
    probe = _balanced(width)
    scale = (norm(probe[None])[0] - norm(-probe[None])[0]) / 2 / probe
    bias = (norm(probe[None])[0] + norm(-probe[None])[0]) / 2
    generator = torch.Generator().manual_seed(0)
    x = 1 + torch.randn(8, width, generator=generator)
    for centred in (False, True):
        y = x - x.mean(1, keepdim=True) if centred else x
        expected = y / y.square().mean(1, keepdim=True).sqrt() * scale + bias
        if (norm(x) - expected).abs().max() <= _TOLERANCE * expected.abs().max():
            return scale, centred
    raise ModelError(
        f"the final norm of {name} ({type(norm).__name__}) is no RMSNorm or LayerNorm; it has no linear part"
    )


def _balanced(width: int) -> Float[Tensor, "width"]:
    """No entry zero, mean 0, mean square 1."""
    probe = torch.ones(width)
    probe[1::2] = -1
    if width % 2 and width >= 3:
        half = math.sqrt(2) / 2
        probe[-3:] = torch.tensor([2 * half, -half, -half])
    return probe
