"""Held-out error of a coder, measured the same way for every library, saescope included.

fvu_centered = Σ‖y - ŷ‖² / Σ‖y - ȳ‖², ȳ the mean of the held-out rows, sums over all held-out rows and dimensions, in raw
activation space. Sums are kept per document as well, for a bootstrap over documents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from exported import Exported
from torch import Tensor

Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Measured:
    """Totals, and float64 sums by document [documents]."""

    fvu_centered: float
    l0: float
    dead: float
    sums: dict[str, Tensor]


@torch.no_grad()
def measure(data: Exported, reads: str, writes: str, reconstruct: Reconstruct) -> Measured:
    """`reconstruct` maps raw rows [n, d] to (latents [n, F], reconstruction [n, d])."""
    documents, document = data.held_out_document().unique(return_inverse=True)
    target = data.held_out(writes)
    mean = torch.stack([rows.double().sum(0) for rows in target.chunks()]).sum(0) / len(target)
    sums = {name: torch.zeros(len(documents), dtype=torch.float64) for name in ("error", "spread", "active", "tokens")}
    fired: Tensor | None = None
    start = 0
    for x, y in zip(data.held_out(reads).chunks(), target.chunks(), strict=True):
        latents, y_hat = reconstruct(x)
        active = latents != 0
        of = document[start : start + len(x)]
        start += len(x)
        sums["error"].index_add_(0, of, (y.double() - y_hat.double()).square().sum(1))
        sums["spread"].index_add_(0, of, (y.double() - mean).square().sum(1))
        sums["active"].index_add_(0, of, active.sum(1).double())
        sums["tokens"].index_add_(0, of, torch.ones(len(x), dtype=torch.float64))
        fired = active.any(0) if fired is None else fired | active.any(0)
    assert fired is not None
    return Measured(
        fvu_centered=float(sums["error"].sum() / sums["spread"].sum()),
        l0=float(sums["active"].sum() / sums["tokens"].sum()),
        dead=float((~fired).double().mean()),
        sums=sums | {"document": documents},
    )


@torch.no_grad()
def threshold_for(data: Exported, reads: str, latents: Callable[[Tensor], Tensor], l0: float) -> float:
    """The threshold above which, over all held-out rows, `l0` latents a row remain.

    `latents` gives non-negative pre-activations [n, F]. Of each row only the strongest 32 · l0 are looked at; ValueError
    where one row has more than that above the threshold.
    """
    strongest = []
    for x in data.held_out(reads).chunks():
        pre = latents(x)
        strongest.append(pre.topk(min(round(32 * l0), pre.shape[1]), dim=1).values.float())
    values = torch.cat(strongest)
    threshold = float(values.flatten().topk(round(l0 * len(values)) + 1).values[-1])
    if values.shape[1] < pre.shape[1] and bool((values[:, -1] > threshold).any()):
        raise ValueError(f"a row has more than {values.shape[1]} latents above {threshold}")
    return threshold
