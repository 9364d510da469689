"""95 % intervals by resampling documents.

Tokens of one document resemble one another, so resampling tokens would give intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.evaluation.documents import DocumentSums

RESAMPLES = 1000
Interval = tuple[float, float]
Total = Callable[[str], Float[Tensor, "resamples ..."]]
_PREDICTIONS = ("ce_recovered", "ce_recovered_mean", "kl")


def intervals(sums: DocumentSums, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Interval | None]:
    """Percentile intervals of `fvu_centered`, `l0`, `ce_recovered`, `ce_recovered_mean` and `kl`, for those of them that
    were summed. None with fewer than two documents: one document says nothing of how others would differ.

    Every resample is measured as the whole set is: its own x̄, its own ratio of sums. CE and KL are measured on a part of the
    tokens; their documents are those with predictions in it.
    """
    names = _computable(sums)
    drawn = {unit: _resampled(sums, unit, resamples, seed) for unit in ("tokens", "targets") if unit in sums}
    found: dict[str, Interval | None] = {}
    for name in names:
        total = drawn["targets" if name in _PREDICTIONS else "tokens"]
        if total is None:
            found[name] = None
            continue
        numerator, denominator = _parts(name, total)
        values = (numerator / denominator)[denominator != 0]
        low_high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)) if values.numel() else None
        found[name] = None if low_high is None else (float(low_high[0]), float(low_high[1]))
    return found


def _resampled(sums: DocumentSums, unit: str, resamples: int, seed: int) -> Total | None:
    """Sums by name over each resample of the documents that have any of `unit`; None where fewer than two have."""
    present = sums[unit] > 0
    n_documents = int(present.sum())
    if n_documents < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n_documents, (resamples, n_documents), generator=generator)
    weight = torch.zeros(resamples, n_documents, dtype=torch.float64)
    weight.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return lambda name: weight @ sums[name][present]


def _computable(sums: DocumentSums) -> list[str]:
    names = ["fvu_centered"]
    names += ["l0"] if "active" in sums else []
    if "ce" in sums:
        names += ["ce_recovered"] + (["ce_recovered_mean"] if "ce_mean" in sums else []) + ["kl"]
    return names


def _parts(name: str, total: Total) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of a metric, one of each a resample."""
    if name == "fvu_centered":
        return total("error2"), total("moved2") - total("moved").square().sum(1) / total("tokens")
    if name == "l0":
        return total("active"), total("tokens")
    if name == "kl":
        return total("kl"), total("targets")
    ablated = total("ce_zero" if name == "ce_recovered" else "ce_mean")
    return ablated - total("ce"), ablated - total("ce_orig")
