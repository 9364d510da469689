"""JumpReLU: a latent is active where its pre-activation exceeds its own threshold (Rajamanoharan et al., 2024).

    f = pre · [pre > θ],  θ > 0        penalty = λ · L0 / d_out       (`sparsity: step`)
                                              λ · Σ tanh(c·f) / (tokens · d_out)    (`sparsity: tanh`; Anthropic, 2025)

A threshold moves L0 and the error in jumps, so its gradient is estimated from the entries within a window of width ε
around it (straight-through):

    ∂f/∂θ ≈ -(θ/ε)·[|pre - θ| < ε/2],     ∂[pre > θ]/∂θ ≈ -(1/ε)·[|pre - θ| < ε/2]

λ is steered to the wanted L0, fixed, or replaced by c·(L0/l0 - 1)² (`control: quadratic`; Gemma Scope). Through gradients
alone L0 hardly moves: thresholds take steps of the learning rate while pre-activations grow with every weight. So a steered
run moves all thresholds together by L0's present excess, and leaves to λ and the gradients how they differ.

Also the form in which BatchTopK and Matryoshka coders are used: their batch-wide choice becomes a constant threshold.

Entries below the window, or below zero, have no gradient, so the exact step needs those above max(θ - ε/2, 0) only.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from saescope.coders.architecture import TrainingPass, register
from saescope.coders.calibration import margin_for_l0
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.coders.l0_control import SteeredArchitecture, SteeredOptions
from saescope.kernels import Support, per_latent

_QUADRATIC = 10.0
# All thresholds follow L0's excess by this power each step.
_FOLLOW = 0.1


class JumpReLUOptions(SteeredOptions):
    sparsity: Literal["step", "tanh"] = Field(default="step", description="what is penalised: L0, or Σ tanh(c·f)")
    tanh_scale: float = Field(default=0.5, gt=0, description="c; f of unit-mean-square activations")
    control: Literal["steer", "quadratic"] = Field(
        default="steer", description="steer λ to l0 (unless coefficient is given), or penalise (L0/l0 - 1)²"
    )
    bandwidth: float = Field(default=1.0, gt=0, description="ε, in units of normalised pre-activations")


@register
class JumpReLU(SteeredArchitecture):
    name = "jumprelu"
    inference = "jumprelu"
    fast = {"threshold": 4.0}  # noqa: RUF012
    options_type = JumpReLUOptions
    options: JumpReLUOptions

    def extra_parameters(self) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(self.d_sae)}

    @property
    def steered(self) -> bool:
        return super().steered or self.options.control == "quadratic"

    @torch.no_grad()
    def prepare(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], *, warm: bool) -> None:
        threshold = coder.extra("threshold")
        if not warm:
            threshold.fill_(max(0.0, margin_for_l0(coder, [x], coder.b_enc, self.wanted_l0) or 0.0))
        # Being active is worth about the square of what it contributes, and the weakest contribute θ.
        self.set_price(coder, max(1e-3, float(threshold.mean()) ** 2))

    @torch.no_grad()
    def restart(
        self, coder: SparseCoder, latents: Int[Tensor, "n"], living: Bool[Tensor, "d_sae"], share: float
    ) -> None:
        threshold = coder.extra("threshold")
        threshold[latents] = share * threshold[living].mean()

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        return coder.above(x, coder.extra("threshold").detach())

    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        threshold, width = coder.extra("threshold"), self.options.bandwidth
        near = coder.above(x, threshold.detach() - width / 2)
        support, pre, theta = near.support, near.values, per_latent(near.support, threshold)
        values: Tensor = _Jump.apply(pre, theta, width)  # type: ignore[no-untyped-call]
        codes = Codes(support, values)
        return TrainingPass(codes, coder.rest(x), self.penalty(coder, codes, pre, theta))

    def penalty(
        self, coder: SparseCoder, codes: Codes, pre: Float[Tensor, "nnz"], theta: Float[Tensor, "nnz"]
    ) -> Float[Tensor, ""]:
        """The sparsity term of the loss, its weight included."""
        if self.options.sparsity == "tanh":
            active_count = torch.tanh(self.options.tanh_scale * codes.values).sum()
        else:
            active_count = _Step.apply(pre, theta, self.options.bandwidth).sum()  # type: ignore[no-untyped-call]
        l0 = active_count / max(1, codes.n_tokens)
        if self.options.control == "quadratic":
            return (self.options.coefficient or _QUADRATIC) * (l0 / self.wanted_l0 - 1) ** 2
        return self.price(coder) * l0 / coder.d_out

    @torch.no_grad()
    def after_step(self, coder: SparseCoder, done: TrainingPass, step: int, n_steps: int) -> None:
        super().after_step(coder, done, step, n_steps)
        if self.steered and self.options.control == "steer":
            coder.extra("threshold").mul_(coder.extra("price_ratio").to(coder.dtype) ** _FOLLOW)

    def inference_tensors(
        self, coder: SparseCoder, norms: Float[Tensor, "d_sae"], moved: Float[Tensor, "d_sae"]
    ) -> dict[str, Float[Tensor, "..."]]:
        return {"threshold": coder.extra("threshold").double() * norms}

    @torch.no_grad()
    def calibrate(self, coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]]) -> None:
        if not self.steered:
            return
        threshold, b_enc = coder.extra("threshold"), coder.b_enc

        def counts(support: Support, products: Float[Tensor, "nnz"]) -> Bool[Tensor, "nnz"]:
            # Below zero nothing is active, whatever the threshold.
            return products + b_enc[support.indices] > 0

        margin = margin_for_l0(coder, batches, b_enc - threshold, self.options.l0, counts)
        if margin is not None:
            threshold.add_(margin)
        threshold.clamp_(min=0)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return pre * (pre > theta.clamp(min=0))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pre, theta = ctx.saved_tensors
        window = _window(pre, theta, ctx.width)
        return grads[0] * (pre > theta.clamp(min=0)), -grads[0] * window * theta / ctx.width, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, theta: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, theta)
        ctx.width = width
        return (pre > theta.clamp(min=0)).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pre, theta = ctx.saved_tensors
        window = _window(pre, theta, ctx.width)
        return None, -grads[0] * window / ctx.width, None


def _window(pre: Float[Tensor, "nnz"], theta: Float[Tensor, "nnz"], width: float) -> Float[Tensor, "nnz"]:
    """1 within half a width of the threshold and above zero, else 0."""
    return (((pre - theta).abs() < width / 2) & (pre > 0)).to(pre.dtype)
