"""Matching pursuit: latents chosen one after the other, each on what the ones before left over (SAELens). Run, not trained.

    r = x - b_dec;  repeatedly  i = argmax_j r·w_j,  v = relu(r·w_i),  f_i += v,  r -= v·w_i       w_j: rows of W_dec

A token is done when its residual is shorter than `residual_threshold`, when a step adds no latent to its active ones
(`stop_on_duplicate_support`), or after `max_iterations` steps (d_in of them unless given). There is no encoder:
W_enc is W_decᵀ.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saescope.coders.architecture import Options, RunOnly, register
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.kernels import token_chunks


class MatchingPursuitOptions(Options):
    residual_threshold: float = Field(
        default=1e-2, ge=0, description="length of a residual that is small enough; 0: never"
    )
    max_iterations: int | None = Field(default=None, gt=0, description="steps at most; None: d_in")
    stop_on_duplicate_support: bool = Field(default=True, description="stop when a step activates no further latent")


@register
class MatchingPursuit(RunOnly):
    name = "matching_pursuit"
    inference = "matching_pursuit"
    ranks = True
    not_filed: ClassVar[tuple[str, ...]] = ("W_enc", "b_enc")
    options_type = MatchingPursuitOptions
    options: MatchingPursuitOptions

    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        step = token_chunks(x.shape[0], coder.d_sae, x.dtype, x.device).step
        parts = [self._pursue(coder, part) for part in coder.centred(x).split(step)]
        return Codes.from_dense(torch.cat(parts) if parts else x.new_zeros(0, coder.d_sae))

    def _pursue(self, coder: SparseCoder, residual: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_sae"]:
        rows = coder.W_dec
        f = residual.new_zeros(residual.shape[0], coder.d_sae)
        going = torch.ones(residual.shape[0], dtype=torch.bool, device=residual.device)
        for _ in range(self.options.max_iterations or coder.d_in):
            before = f
            with torch.no_grad():
                # Ties, and tokens that nothing matches, go to the first latent, as argmax of the rectified products does.
                best = (residual @ rows.T).relu().argmax(dim=1, keepdim=True)
            chosen = rows[best.squeeze(1)]
            value = (residual * chosen).sum(dim=1, keepdim=True).relu() * going[:, None]
            f = f.scatter_add(1, best, value)
            residual = residual - value * chosen
            if self.options.stop_on_duplicate_support:
                going = going & ((f != 0) != (before != 0)).any(dim=1)
            if self.options.residual_threshold > 0:
                going = going & (residual.norm(dim=1) >= self.options.residual_threshold)
            if not bool(going.any()):
                break
        return f

    @torch.no_grad()
    def settle(self, coder: SparseCoder) -> None:
        coder.W_enc_rows.copy_(coder.W_dec)
        coder.b_enc.zero_()

    def inference_options(self) -> dict[str, Any]:
        return self.options.model_dump()

    def file_entries(self) -> dict[str, Any]:
        return self.options.model_dump()
