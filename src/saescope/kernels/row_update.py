"""Adam on the rows of a matrix in one pass over memory, rows on the unit sphere if asked. Needs what `cuda` needs.

In torch projecting, measuring, clipping, Adam and renormalising each pass over memory at least once; here it is two passes in
all. With F rows of d float32 numbers `square_norm` reads 8·F·d bytes, `update_rows` reads 16·F·d and writes 12·F·d; about 20
FLOPs per number, so memory bounds both. Neither makes the host wait, and neither depends on scheduling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def square_norm(
    weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], *, on_sphere: bool
) -> Float[Tensor, ""]:
    """Σ grad², on the sphere without each row's part along its weight: what this matrix adds to the square of the gradient
    norm that clipping compares."""
    _check(weight, grad)
    out = torch.empty(weight.shape[0], device=weight.device)
    if weight.numel():
        with torch.cuda.device_of(weight):
            _kernels().row_square_norms[(weight.shape[0],)](weight, grad, out, **_tiling(weight), ON_SPHERE=on_sphere)
    return out.sum()


def update_rows(
    weight: Float[Tensor, "rows d"],
    grad: Float[Tensor, "rows d"],
    m: Float[Tensor, "rows d"],
    v: Float[Tensor, "rows d"],
    lr: float,
    beta1: float,
    beta2: float,
    correction1: float,
    correction2: float,
    eps: float,
    clip: Float[Tensor, ""],
    on_sphere: bool,
) -> None:
    """One Adam step on `weight` and its moments `m` and `v`, all in place; `grad` is left as it is.

        g ← clip · (grad - (grad · w) w)        without the projection off the sphere
        m ← beta1 m + (1 - beta1) g,   v ← beta2 v + (1 - beta2) g²
        w ← w - (lr / correction1) m / (√(v / correction2) + eps),   then w / ‖w‖ on the sphere

    `correction` is 1 - beta^t at step t, counted from 1. `clip` stays on the device. All float32 and contiguous.
    """
    _check(weight, grad, m, v)
    if weight.numel() == 0:
        return
    # Differences from one are taken here: in float32, 1 - 0.999 would be off by 5e-5 of itself.
    scalars = (lr / correction1, beta1, 1 - beta1, beta2, 1 - beta2, math.sqrt(correction2), eps)
    with torch.cuda.device_of(weight):
        _kernels().update_row[(weight.shape[0],)](
            weight, grad, m, v, clip, *scalars, **_tiling(weight), ON_SPHERE=on_sphere
        )


def _check(weight: Tensor, *others: Tensor) -> None:
    """Kernels take addresses and believe them."""
    for tensor in (weight, *others):
        if tensor.dtype != torch.float32 or not tensor.is_contiguous() or tensor.shape != weight.shape:
            raise ValueError(
                f"expected contiguous float32 {list(weight.shape)}, got {tensor.dtype} {list(tensor.shape)}"
            )


def _tiling(weight: Float[Tensor, "rows d"]) -> dict[str, Any]:
    width = weight.shape[1]
    block = 1 << (width - 1).bit_length()
    # Four arrays of 16 numbers a thread, so that a row fits the registers up to widths of 8192.
    return {"D": width, "BLOCK": block, "num_warps": min(16, max(1, block // 512)), "enable_fp_fusion": True}


def _kernels() -> Any:
    from saescope.kernels import triton_kernels

    return triton_kernels
