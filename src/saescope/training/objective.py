"""The loss: reconstruction error over the architecture's levels, its penalty, and AuxK for dead latents.

    loss = mean over levels of Σ‖y - ŷ_l‖² / (tokens · d_out)  +  penalty  +  c · Σ‖e - ê‖² / Σ‖e‖²

Inputs are normalised, so the first term is close to fvu_centered. e = y - ŷ (a constant here) and ê is its reconstruction
from dead latents only (Gao et al., 2024): each token's aux_k strongest. Its gradient reaches decoder *and* encoder, so that
dead latents come back where the error is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.coders import SparseCoder, TrainingPass
from saescope.kernels import Encoding, active, decode_from, preactivations_on, reconstruction_error, recycling


@dataclass(frozen=True)
class AuxLoss:
    """AuxK's term: Σ‖e - ê‖² / Σ‖e‖², and the dead latents' rows that its gradient arrives at."""

    value: Float[Tensor, ""]
    dead: Int[Tensor, "n_dead"]
    rows: tuple[tuple[Tensor, Tensor], ...]

    @torch.no_grad()
    def hand_over(self) -> None:
        """Add the dead rows' gradients to those of the parameters they were taken from."""
        for parameter, copied in self.rows:
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if copied.grad is not None:
                parameter.grad[self.dead] += copied.grad


@dataclass(frozen=True)
class Loss:
    """One batch's loss, differentiable, and its parts as detached scalars. squared_error: of the coder's output, summed."""

    total: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    squared_error: Float[Tensor, ""]
    aux: AuxLoss | None
    done: TrainingPass
    target: Float[Tensor, "tokens d_out"]
    errors: Float[Tensor, "rows d_out"]

    def backward(self) -> None:
        """Add the gradient of `total` to the parameters'. Once: the errors' memory is then another step's."""
        torch.autograd.backward(self.total)
        recycling.give(self.errors)
        if self.aux is not None:
            self.aux.hand_over()

    @property
    def fvu(self) -> Float[Tensor, ""]:
        """Squared error over the batch's spread around its own mean. Computed when asked for."""
        spread = (self.target - self.target.mean(0)).pow(2).sum()
        return self.squared_error / spread.clamp(min=1e-30)


@dataclass(frozen=True)
class AuxTerm:
    """AuxK's settings for one step: which latents are dead, how many to choose, on how many tokens, and its weight."""

    dead: Int[Tensor, "n_dead"]
    k: int
    tokens: int
    coefficient: float


def objective(
    coder: SparseCoder,
    x: Float[Tensor, "tokens d_in"],
    y: Float[Tensor, "tokens d_out"],
    *,
    selection: torch.dtype,
    aux: AuxTerm | None = None,
) -> Loss:
    """Loss of a batch of normalised activations; `y` is what is to be reconstructed (`x` itself for an SAE)."""
    done = coder.architecture.training_pass(coder, x, y, selection)
    levels = done.n_levels
    squares, squared_error, errors = reconstruction_error(
        done.by_level or done.codes.support, done.codes.values, coder.W_dec, done.rest, y, levels
    )
    # No tokens: the mean over nothing is taken as zero, so that an empty batch is harmless.
    reconstruction = squares / max(1, levels * y.numel())
    total = reconstruction if done.penalty is None else reconstruction + done.penalty
    aux_loss = None
    if aux is not None and aux.coefficient > 0:
        error = errors[levels - 1 :: levels][: aux.tokens].clone()
        aux_loss = aux_loss_of(coder, x[: aux.tokens], error, aux, selection)
        if aux_loss is not None:
            total = total + aux.coefficient * aux_loss.value
    return Loss(total, reconstruction.detach(), squared_error, aux_loss, done, y, errors)


def aux_loss_of(
    coder: SparseCoder,
    x: Float[Tensor, "tokens d_in"],
    error: Float[Tensor, "tokens d_out"],
    aux: AuxTerm,
    selection: torch.dtype,
) -> AuxLoss | None:
    """The term of dead latents, or None when there are none.

    The dead rows are taken out as weights of their own: a gradient through the whole dictionary would write d_sae rows to
    move a few.
    """
    dead = aux.dead
    if dead.numel() == 0 or error.shape[0] == 0:
        return None
    W_enc, b_enc, W_dec = (
        parameter.detach()[dead].requires_grad_() for parameter in (coder.W_enc_rows, coder.b_enc, coder.W_dec)
    )
    with torch.no_grad():
        pre = Encoding(coder.centred(x), W_enc, b_enc)
        support = active(coder.device).select_topk(pre, min(aux.k, dead.numel()), dtype=selection)
    values = preactivations_on(support, x, W_enc, b_enc, coder.input_shift, centred=pre.x).relu()
    e_hat = decode_from(support, values, W_dec)
    value = (error - e_hat).pow(2).sum() / error.pow(2).sum().clamp(min=1e-30)
    return AuxLoss(value, dead, ((coder.W_enc_rows, W_enc), (coder.b_enc, b_enc), (coder.W_dec, W_dec)))
