"""Held-out error of a coder, measured the same way for every library, saescope included.

fvu_centered = Σ‖y - ŷ‖² / Σ‖y - ȳ‖², ȳ the mean of the held-out rows, sums over all held-out rows and dimensions, in raw
activation space.
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
    """dead: the share of latents that fire in no row."""

    fvu_centered: float
    l0: float
    dead: float


@torch.no_grad()
def measure(data: Exported, reads: str, writes: str, reconstruct: Reconstruct) -> Measured:
    """`reconstruct` maps raw rows [n, d] to (latents [n, F], reconstruction [n, d])."""
    target = data.held_out(writes)
    mean = torch.stack([rows.double().sum(0) for rows in target.chunks()]).sum(0) / len(target)
    error = spread = active = 0.0
    fired: Tensor | None = None
    for x, y in zip(data.held_out(reads).chunks(), target.chunks(), strict=True):
        latents, y_hat = reconstruct(x)
        on = latents != 0
        error += float((y.double() - y_hat.double()).square().sum())
        spread += float((y.double() - mean).square().sum())
        active += int(on.sum())
        fired = on.any(0) if fired is None else fired | on.any(0)
    assert fired is not None
    return Measured(error / spread, active / len(target), float((~fired).double().mean()))


@torch.no_grad()
def threshold_for(data: Exported, reads: str, latents: Callable[[Tensor], Tensor], l0: float) -> float:
    """The threshold above which, over all held-out rows, `l0` latents a row remain, however unlike the rows are.

    `latents` gives non-negative pre-activations [n, F].
    """
    rows = data.held_out(reads)
    wanted = round(l0 * len(rows)) + 1
    strongest = torch.zeros(0)
    for x in rows.chunks():
        values = latents(x).flatten().float()
        if len(strongest) == wanted:
            values = values[values > strongest[-1]]
        pooled = torch.cat([strongest, values])
        strongest = pooled.topk(min(wanted, len(pooled))).values
    return float(strongest[-1])
