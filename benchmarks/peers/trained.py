"""What a trained coder of any library has to offer to be measured, and its weights in one common form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """What to train: the same for every library."""

    library: str
    arch: str
    reads: str
    writes: str
    passes: float
    seed: int
    lr: float
    d_sae: int = 9216
    l0: int = 32
    skip: bool = False
    coefficient: float | None = None
    optimizer: str | None = None
    precision: str = "bfloat16"
    beta1: float = 0.9


@dataclass
class Trained:
    """A coder in its library's inference form.

    reconstruct: raw rows -> (dense latents, reconstruction), by the library's own encode and decode.
    weights: in raw activation space, W_enc [d, F], b_enc, W_dec [F, d], b_dec and what the architecture adds
    (`threshold`; `b_gate`, `b_mag`, `r_mag`; `W_skip` [d, d]). A latent is chosen as `selection` says.
    """

    reconstruct: Callable[[Tensor], tuple[Tensor, Tensor]]
    weights: dict[str, Tensor]
    selection: str
    subtracts_b_dec: bool
    settings: dict[str, Any] = field(default_factory=dict)
    set_threshold: Callable[[float], None] | None = None

    def by_formula(self, x: Tensor, k: int) -> Tensor:
        """The reconstruction that `weights` mean, computed without the library."""
        w = self.weights
        centred = x - w["b_dec"] if self.subtracts_b_dec else x
        product = centred @ w["W_enc"]
        if self.selection == "gated":
            gate = product + w["b_gate"] > 0
            codes = gate * (product * w["r_mag"].exp() + w["b_mag"]).relu()
        else:
            pre = (product + w["b_enc"]).relu()
            if self.selection == "topk":
                top = pre.topk(k, dim=1)
                codes = torch.zeros_like(pre).scatter(1, top.indices, top.values)
            elif self.selection == "threshold":
                codes = pre * (pre > w["threshold"])
            else:
                codes = pre
        out = codes @ w["W_dec"] + w["b_dec"]
        return out + x @ w["W_skip"].T if "W_skip" in w else out
