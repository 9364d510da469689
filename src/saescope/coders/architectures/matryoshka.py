"""Matryoshka BatchTopK: nested dictionaries, each a good one by itself (Bussmann, Leask & Nanda, 2025).

Latents are cut into groups; level l is the first l groups together. Codes are chosen as BatchTopK chooses them, over all
latents; the loss is the mean over levels of the error of

    x̂_l = f[:, :n_l] · W_dec[:n_l] + b_dec

so early latents must reconstruct alone, which keeps general features from being absorbed by their special cases.

Every entry is decoded once, into its (token, group) row. The cost is BatchTopK's plus [tokens, levels, d_out] of errors.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor

from saescope.coders.architecture import TrainingPass, register
from saescope.coders.architectures.batchtopk import BatchTopK, BatchTopKOptions
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.errors import UsageError


class MatryoshkaOptions(BatchTopKOptions):
    fractions: tuple[float, ...] = Field(
        default=(1 / 32, 1 / 16, 1 / 8, 1 / 4),
        description="share of the latents in each group; the last takes the rest",
    )

    @field_validator("fractions")
    @classmethod
    def _positive_and_below_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) <= 0 or sum(value) >= 1:
            raise ValueError("fractions must be positive and sum to less than 1: the last group takes the rest")
        return value


@register
class Matryoshka(BatchTopK):
    name = "matryoshka"
    options_type = MatryoshkaOptions
    options: MatryoshkaOptions

    def check(self) -> None:
        super().check()
        if len(set(self.levels())) != len(self.options.fractions) + 1:
            raise UsageError(
                f"d_sae = {self.d_sae} is too small for groups of {list(self.options.fractions)}: "
                "some would be empty; use fewer groups or more latents"
            )

    def levels(self) -> list[int]:
        total, ends = 0.0, []
        for fraction in self.options.fractions:
            total += fraction
            ends.append(max(1, round(total * self.d_sae)))
        return [*ends, self.d_sae]

    def group_pointers(self, codes: Codes) -> Int[Tensor, "rows_plus_one"]:
        """Row pointers of the entries cut by (token, group): indices ascend within a token, so groups are contiguous."""
        ends = torch.tensor(self.levels()[:-1], device=codes.indices.device)
        group = torch.bucketize(codes.indices, ends, right=True)
        n_groups = len(self.levels())
        pointers = torch.zeros(codes.n_tokens * n_groups + 1, dtype=torch.int64, device=codes.indices.device)
        one = torch.ones(1, dtype=torch.int64, device=codes.indices.device).expand(codes.nnz)
        counts = pointers[1:].scatter_add_(0, codes.rows() * n_groups + group, one)
        torch.cumsum(counts, 0, out=counts)
        return pointers

    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        codes = self.choose(coder, x, selection)
        by_group = codes.support.regroup(self.group_pointers(codes))
        return TrainingPass(codes, coder.rest(x), by_level=by_group, n_levels=len(self.levels()))
