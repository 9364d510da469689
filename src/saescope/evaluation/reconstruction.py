"""How well x̂ stands for x: every reconstruction metric of METRICS.md, from running float64 sums.

e = x - x̂, x̄ the mean over everything seen. Sums run over tokens and dimensions; a ratio is a ratio of sums. Spread about
x̄, unknown until the end, comes from sums shifted by a fixed vector near it:

    Σ‖x - x̄‖² = Σ‖x - s‖² - ‖Σ(x - s)‖²/n

which holds for any s and loses no digits where s is close to x̄ (the training mean, or the first batch's).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.coders import Slice
from saescope.errors import CoderError, ModelError
from saescope.evaluation.documents import DocumentSums

_TINY = 1e-300


class ReconstructionSums:
    """Accumulates x and x̂ of any number of batches.

    shift [d]: the vector s above; None takes the first batch's mean. documents: where sums per document go as well. same_x:
    the documents' sums of another reconstruction, which has been given the same x: its vectors are not summed again.
    """

    def __init__(
        self,
        width: int,
        documents: DocumentSums,
        shift: Float[Tensor, "d"] | None = None,
        same_x: DocumentSums | None = None,
    ) -> None:
        self.n_tokens = self.n_spread = 0
        self.documents, self.same_x = documents, same_x
        self.shift = None if shift is None else shift.detach().cpu().double()
        self.moved, self.moved2, self.error, self.error2 = (torch.zeros(width, dtype=torch.float64) for _ in range(4))
        self.norm2 = self.output2 = self.inner = self.cosine = self.ratio = self.legacy = 0.0

    def update(
        self, x: Float[Tensor, "tokens d"], x_hat: Float[Tensor, "tokens d"], document: Int[Tensor, "tokens"]
    ) -> None:
        """Add one batch. ModelError where x holds NaN or infinity, CoderError where x̂ does."""
        if x.shape[0] == 0:
            return
        x, x_hat = x.detach().cpu().double(), x_hat.detach().cpu().double()
        _refuse_non_finite(x, x_hat)
        if self.shift is None:
            self.shift = x.mean(0)
        error, moved = x - x_hat, x - self.shift
        error2, moved2 = error.square().sum(1), moved.square().sum(1)
        norm, output, inner = x.norm(dim=1), x_hat.norm(dim=1), (x * x_hat).sum(1)
        spread = (x - x.mean(0)).square().sum(1)

        self.n_tokens += x.shape[0]
        self.moved += moved.sum(0)
        self.moved2 += moved.square().sum(0)
        self.error += error.sum(0)
        self.error2 += error.square().sum(0)
        self.norm2 += float(norm.square().sum())
        self.output2 += float(output.square().sum())
        self.inner += float(inner.sum())
        self.cosine += float((inner / (norm * output).clamp(min=_TINY)).sum())
        self.ratio += float((output / norm.clamp(min=_TINY)).sum())
        # A batch of one token, or of equal ones, has no spread to explain.
        spread_out = spread > 0
        self.n_spread += int(spread_out.sum())
        self.legacy += float((1 - error2[spread_out] / spread[spread_out]).sum())
        self.documents.count("tokens", document)
        self.documents.add("error2", document, error2)
        self.documents.add("moved2", document, moved2)
        if self.same_x is None:
            self.documents.add("moved", document, moved)
        else:
            self.documents.share("moved", self.same_x)

    @property
    def spread(self) -> Float[Tensor, "d"]:
        """Σ (x - x̄)² per dimension."""
        return (self.moved2 - self.moved.square() / max(self.n_tokens, 1)).clamp(min=0)

    def metrics(self, slices: Sequence[Slice] = ()) -> dict[str, float | None]:
        """By METRICS.md's names; None where a denominator is zero. `slices` adds `fvu_centered.POINT` where several
        points are written."""
        n, width = max(self.n_tokens, 1), self.error.numel()
        error2, spread = float(self.error2.sum()), float(self.spread.sum())
        fvu = _ratio(error2, spread)
        error_variance = error2 - float(self.error.square().sum()) / n
        # Of a constant dimension away from the shift, rounding leaves a spread.
        varying = self.spread > 1e-12 * self.moved2
        scaled = self.error2[varying] / self.spread[varying]
        found = {
            "mse": error2 / n,
            "mse_per_dim": error2 / n / width,
            "fvu_centered": fvu,
            "explained_variance": _one_minus(fvu),
            "fvu_per_dim": float(scaled.mean()) if scaled.numel() else None,
            "cosine": self.cosine / n,
            "l2_ratio": self.ratio / n,
            "reconstruction_bias": _ratio(self.output2, self.inner),
            "ev_batch_legacy": _ratio(self.legacy, self.n_spread),
            "ev_uncentered": _one_minus(_ratio(error2, self.norm2)),
            "ev_dl": _one_minus(_ratio(error_variance, spread)),
        }
        return found | self._by_slice(slices)

    def _by_slice(self, slices: Sequence[Slice]) -> dict[str, float | None]:
        if len(slices) < 2:
            return {}
        widths = [part.width for part in slices]
        parts = zip(slices, self.error2.split(widths), self.spread.split(widths), strict=True)
        return {
            f"fvu_centered.{part.point}": _ratio(float(error.sum()), float(spread.sum()))
            for part, error, spread in parts
        }


def _refuse_non_finite(x: Tensor, x_hat: Tensor) -> None:
    if not math.isfinite(float(x.sum())):
        raise ModelError("the model's activations contain NaN or infinity; try --dtype float32, or another text")
    if not math.isfinite(float(x_hat.sum())):
        raise CoderError("the coder's output contains NaN or infinity on finite activations; its weights are damaged")


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _one_minus(value: float | None) -> float | None:
    return None if value is None else 1 - value
