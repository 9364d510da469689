"""The output tokens that every feature's decoder direction raises and lowers most: the logit lens.

Only where the coder writes what is added to the residual stream; elsewhere a decoder direction has no logits of its own.
`lm.OutputLens` says how the final norm is made linear; what it leaves out changes no feature's order of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saescope.coders import SparseCoder
from saescope.errors import ModelError, SaescopeError, UsageError
from saescope.features.weights.best import (
    SURPLUS,
    block_rows,
    exact_products,
    float64_device,
    largest_places,
    ordered,
    rough_dtype,
)
from saescope.lm import OutputLens

if TYPE_CHECKING:
    from saescope.lm import LanguageModel

N_TOKENS = 10


@dataclass(frozen=True)
class LogitLens:
    """top, bottom int32 [d_sae, k]: token ids, strongest first; top_logits, bottom_logits float32 [d_sae, k]. mean, deviation
    float32 [d_sae]: over the whole vocabulary. Logits are up to one positive factor that a position decides.

    A row of zeros (a latent that writes nothing) has the first k tokens with logits of 0.
    """

    top: NDArray[np.int32]
    top_logits: NDArray[np.float32]
    bottom: NDArray[np.int32]
    bottom_logits: NDArray[np.float32]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @property
    def peak(self) -> NDArray[np.float32]:
        """How many standard deviations the top token lies above the vocabulary's mean, [d_sae]; 0 for a row of zeros."""
        spread = np.where(self.deviation > 0, self.deviation, 1)
        return np.where(self.deviation > 0, (self.top_logits[:, 0] - self.mean) / spread, 0).astype(np.float32)


def why_no_lens(coder: SparseCoder, lm: LanguageModel) -> str | None:
    """Why this coder's features have no output tokens in this model, in one line; None where they have."""
    return _slice_or_reason(coder, lm)[1]


@torch.no_grad()
def logit_lens(coder: SparseCoder, lm: LanguageModel, k: int = N_TOKENS) -> LogitLens | None:
    """Top and bottom `k` tokens of every feature; None where `why_no_lens` has a reason.

    Of a coder that writes several points, the last one in the model's order counts. k + 6 candidates are chosen in
    bfloat16 where that is native and their logits recomputed in float32: a token within a rounding of the k-th may be missed.
    """
    written, reason = _slice_or_reason(coder, lm)
    if reason is not None:
        return None
    lens = lm.output_lens
    k = min(k, lens.unembedding.shape[0])
    n = min(k + SURPLUS, lens.unembedding.shape[0])
    unembedding = lens.unembedding
    dtype = rough_dtype(unembedding.device)
    rough = unembedding.to(dtype)
    mean_token, factor = _moments(unembedding)
    parts: list[tuple[NDArray[np.generic], ...]] = []
    for rows in coder.W_dec[:, written].split(block_rows(unembedding.shape[0])):
        seen = lens.before_unembedding(rows)
        products = seen.to(dtype) @ rough.T
        found: list[NDArray[np.generic]] = []
        for smallest in (False, True):
            places = largest_places(products, n, smallest=smallest)
            found += ordered(places, exact_products(seen, unembedding, places), k, smallest=smallest)
        found += [(seen @ mean_token).cpu().numpy(), (seen @ factor).norm(dim=1).cpu().numpy()]
        parts.append(tuple(found))
    return LogitLens(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def logit_histogram(
    coder: SparseCoder, lm: LanguageModel, features: list[int], n_bins: int = 50
) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """For each of `features` the histogram of its logits over the vocabulary: edges [n_bins + 1] and counts [n_bins].
    UsageError where the coder has no lens."""
    written, reason = _slice_or_reason(coder, lm)
    if reason is not None:
        raise UsageError(f"no logits: {reason}")
    found = []
    for rows in coder.W_dec[features][:, written].split(block_rows(lm.output_lens.unembedding.shape[0])):
        logits = lm.output_lens.before_unembedding(rows) @ lm.output_lens.unembedding.float().T
        for row in logits.cpu().numpy():
            counts, edges = np.histogram(row, bins=n_bins)
            found.append((edges.astype(np.float64), counts.astype(np.int64)))
    return found


def _slice_or_reason(coder: SparseCoder, lm: LanguageModel) -> tuple[slice, str | None]:
    """The columns of W_dec that reach the residual stream last, or why none do."""
    start, chosen, reasons = 0, None, []
    for part in coder.writes:
        reason = _reason(part.point, part.width, lm)
        if reason is None:
            chosen = slice(start, start + part.width)
        else:
            reasons.append(reason)
        start += part.width
    if chosen is None:
        return slice(0), reasons[0]
    try:
        _: OutputLens = lm.output_lens
    except ModelError as error:
        return slice(0), str(error)
    return chosen, None


def _reason(point: str, width: int, lm: LanguageModel) -> str | None:
    try:
        refused = lm.lens_refusal(point)
    except SaescopeError as error:
        return str(error)
    if refused is None and width != lm.d_model:
        return f"the coder writes {width} numbers at {point}, {lm.name}'s residual stream has {lm.d_model}"
    return refused


def _moments(unembedding: Float[Tensor, "vocab d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d d"]]:
    """A vocabulary's mean row m and a matrix F with F·Fᵀ its covariance: logits of v have mean v·m and variance ‖v·F‖²."""
    device = unembedding.device
    unembedding = unembedding.to(float64_device(device))
    mean = unembedding.mean(0, dtype=torch.float64)
    covariance = torch.zeros(mean.numel(), mean.numel(), dtype=torch.float64, device=mean.device)
    for rows in unembedding.split(4096):
        centred = (rows.double() - mean).float()
        covariance += centred.T @ centred
    values, vectors = torch.linalg.eigh(covariance / unembedding.shape[0])
    return mean.float().to(device), (vectors * values.clamp(min=0).sqrt()).float().to(device)
