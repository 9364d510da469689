"""Standard: rectified linear latents under an L1 penalty (Bricken et al., 2023; Cunningham et al., 2023).

    f = relu(pre),    penalty = λ · Σ f·‖W_dec row‖ / (tokens · d_out)

Decoder rows are unit vectors in training, so f is its contribution's length. λ is steered to the wanted L0, or fixed.
L1 shrinks every f by about λ/2. When training ends, one factor for all, by least squares on training rows, takes back what it
can; with `p` < 1 the penalty is annealed from L1 to Σ f^p (Karvonen et al., 2024), which hardly shrinks what is strong.

A latent that is off has no gradient, so the exact step needs the active entries only. The first bias lets the
wanted L0 through, not half of all latents, so that even the first steps are sparse.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saescope.coders.architecture import TrainingPass, register
from saescope.coders.calibration import Counts, best_factor, margin_for_l0
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.coders.l0_control import SteeredArchitecture, SteeredOptions

# f^p has an infinite slope at zero; f is counted from here.
_SOFT = 1e-2


class StandardOptions(SteeredOptions):
    p: float = Field(default=1.0, gt=0, le=1, description="power of f that the penalty ends with; 1 is L1 throughout")
    anneal_from: float = Field(default=0.3, ge=0, le=1, description="part of the run after which p falls from 1")


@register
class Standard(SteeredArchitecture):
    name = "standard"
    inference = "standard"
    options_type = StandardOptions
    options: StandardOptions

    def extra_tensors(self) -> dict[str, Tensor]:
        return super().extra_tensors() | {"power": torch.ones((), dtype=torch.float64)}

    def prepare(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], *, warm: bool) -> None:
        if not warm:
            shift_bias(coder, [x], self.wanted_l0)

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        return coder.above(x, torch.zeros_like(coder.b_enc))

    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        codes = self.encode(coder, x)
        return TrainingPass(codes, coder.rest(x), self.price(coder) * self.penalty(coder, codes))

    def penalty(self, coder: SparseCoder, codes: Codes) -> Float[Tensor, ""]:
        """Σ f^p / (tokens · d_out)."""
        size = codes.values
        if self.options.p < 1:
            size = (size + _SOFT) ** coder.extra("power").to(size.dtype) * (size > 0)
        return size.sum() / (max(1, codes.n_tokens) * coder.d_out)

    @torch.no_grad()
    def after_step(self, coder: SparseCoder, done: TrainingPass, step: int, n_steps: int) -> None:
        super().after_step(coder, done, step, n_steps)
        start = self.options.anneal_from
        passed = ((step + 1) / n_steps - start) / max(1e-9, 1 - start)
        coder.extra("power").fill_(1 - (1 - self.options.p) * min(1.0, max(0.0, passed)))

    def calibrate(self, coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]]) -> None:
        if self.steered:
            shift_bias(coder, batches, self.options.l0)

    @torch.no_grad()
    def refit(
        self, coder: SparseCoder, pairs: list[tuple[Float[Tensor, "tokens d_in"], Float[Tensor, "tokens d_out"]]]
    ) -> None:
        factor = best_factor(
            (y - coder.rest(x), coder.decode(self.encode(coder, x), x) - coder.rest(x)) for x, y in pairs
        )
        if factor is not None:
            # Scaling both changes no latent's sign, so the support stays.
            coder.W_enc_rows.mul_(factor)
            coder.b_enc.mul_(factor)


@torch.no_grad()
def shift_bias(
    coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]], l0: float, counts: Counts | None = None
) -> None:
    """Move all biases by one amount so that mean L0 over `batches` is `l0`; `counts` as in `margin_for_l0`."""
    margin = margin_for_l0(coder, batches, coder.b_enc, l0, counts)
    if margin is not None:
        coder.b_enc.sub_(margin)
