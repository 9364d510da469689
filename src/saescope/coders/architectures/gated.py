"""Gated: one path decides whether a latent is active, another how much (Rajamanoharan et al., 2024).

    π = (x - b_dec) · W_enc + b_gate          m = (x - b_dec) · (W_enc · exp(r_mag)) + b_mag
    f = [π > 0] · relu(m)
    penalty = λ · Σ relu(π) / (tokens · d_out)  +  ‖y - (relu(π) · W_dec + b_dec)‖² / (tokens · d_out), decoder frozen

L1 falls on π only, so what is active is not shrunk; the auxiliary reconstruction keeps π meaningful. Its decoder is a frozen
copy. λ is steered to the wanted L0, or fixed. The coder's `b_enc` is the paper's b_gate.

All gradients pass through entries with π > 0, so the exact step needs those only.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.coders.architecture import TrainingPass, register
from saescope.coders.architectures.standard import shift_bias
from saescope.coders.calibration import best_factor
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.coders.l0_control import SteeredArchitecture, SteeredOptions
from saescope.kernels import Support, decode_from, per_latent


@register
class Gated(SteeredArchitecture):
    name = "gated"
    inference = "gated"
    file_names = {"b_enc": "b_gate"}  # noqa: RUF012
    options: SteeredOptions

    def extra_parameters(self) -> dict[str, Tensor]:
        return {"b_mag": torch.zeros(self.d_sae), "r_mag": torch.zeros(self.d_sae)}

    @torch.no_grad()
    def prepare(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], *, warm: bool) -> None:
        if not warm:
            shift_bias(coder, [x], self.wanted_l0)
            coder.extra("r_mag").fill_(self.first_gain(coder, x))

    def first_gain(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> float:
        """The logarithm of the one factor, by least squares, that brings the first magnitudes to the length that explains `x`.

        Tied random directions explain it several times over where many are open: at an L0 of a tenth of the latents, the
        first reconstruction would be four times too long, and a short run would not get over it.
        """
        if coder.reads != coder.writes:
            return 0.0
        explained = coder.decode(self.encode(coder, x), x) - coder.b_dec
        return math.log(best_factor([(x - coder.b_dec, explained)]) or 1.0)

    @torch.no_grad()
    def restart(
        self, coder: SparseCoder, latents: Int[Tensor, "n"], living: Bool[Tensor, "d_sae"], share: float
    ) -> None:
        r_mag, b_mag = coder.extra("r_mag"), coder.extra("b_mag")
        # The gain is the dictionary's scale, and not of a row's length.
        r_mag[latents], b_mag[latents] = r_mag[living].mean(), share * b_mag[living].mean()

    def gate(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> tuple[Codes, Codes]:
        """The codes, and on the same support the gates π."""
        opened = coder.above(x, torch.zeros_like(coder.b_enc))
        support, gates = opened.support, opened.values
        gain = per_latent(support, coder.extra("r_mag").exp())
        magnitudes = (gates - per_latent(support, coder.b_enc)) * gain + per_latent(support, coder.extra("b_mag"))
        # A gate of zero belongs to an entry that only fills up.
        return Codes(support, magnitudes.relu() * (gates > 0)), opened

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        return self.gate(coder, x)[0].without_zeros()

    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        codes, gates = self.gate(coder, x)
        with torch.no_grad():
            rest = coder.rest(x)
        frozen = decode_from(gates.support, gates.values, coder.W_dec.detach()) + rest
        size = max(1, y.shape[0]) * coder.d_out
        penalty = (self.price(coder) * gates.values.sum() + (y - frozen).pow(2).sum()) / size
        return TrainingPass(codes, coder.rest(x), penalty)

    def inference_tensors(
        self, coder: SparseCoder, norms: Float[Tensor, "d_sae"], moved: Float[Tensor, "d_sae"]
    ) -> dict[str, Float[Tensor, "..."]]:
        # The rescaled W_enc carries the norms into the magnitudes' product as well, so r_mag stays.
        r_mag = coder.extra("r_mag").double()
        return {"r_mag": r_mag, "b_mag": (coder.extra("b_mag").double() + r_mag.exp() * moved) * norms}

    def calibrate(self, coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]]) -> None:
        if not self.steered:
            return
        # Only the gate moves: r_mag and b_mag, and so the magnitudes, stay as trained.
        gain, b_mag = coder.extra("r_mag").exp(), coder.extra("b_mag")

        def counts(support: Support, products: Float[Tensor, "nnz"]) -> Bool[Tensor, "nnz"]:
            return products * gain[support.indices] + b_mag[support.indices] > 0

        shift_bias(coder, batches, self.options.l0, counts)
