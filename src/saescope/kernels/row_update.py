"""Adam on the rows of a matrix in one pass over memory, rows on the unit sphere if asked. Needs what `cuda` needs.

In torch projecting, measuring, clipping, Adam and renormalising each pass over memory at least once; here it is two passes in
all. With F rows of d float32 numbers `along_and_square` reads 8·F·d bytes, `update` reads 16·F·d and writes 12·F·d, and
4·F·d more of each for a follower; about 20 FLOPs per number, so memory bounds both. Neither makes the host wait, and neither
depends on scheduling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.kernels.launching import kernels
from saescope.kernels.operands import AdamStep, Trained

# Four arrays of 16 numbers a thread: wider rows than this do not fit the registers.
_WIDEST = 8192


def fits(weight: Float[Tensor, "rows d"]) -> bool:
    """Whether these kernels take it: many rows of float32, none wider than the registers."""
    return weight.dtype == torch.float32 and weight.shape[0] > 1 and 0 < weight.shape[1] <= _WIDEST


def along_and_square(
    weight: Float[Tensor, "rows d"], grad: Float[Tensor, "rows d"], on_sphere: bool
) -> tuple[Float[Tensor, "rows"], Float[Tensor, ""]]:
    """Each row's grad · weight (on the sphere; else arbitrary numbers), and Σ grad² without each row's part along its weight:
    what this matrix adds to the square of the gradient norm that clipping compares."""
    _check(weight, grad)
    along, squares = torch.empty(2, weight.shape[0], device=weight.device)
    with torch.cuda.device_of(weight):
        kernels().row_square_norms[(weight.shape[0],)](
            weight, grad, along, squares, **_tiling(weight), ON_SPHERE=on_sphere
        )
    return along, squares.sum()


def update(trained: Trained, along: Float[Tensor, "rows"] | None, scale: Float[Tensor, ""], step: AdamStep) -> None:
    """`reference.adam`; the gradient is left as it is, `scale` stays on the device. All float32 and contiguous."""
    weight, grad, mean, square = trained.weight, trained.grad, trained.mean, trained.square
    _check(weight, grad, mean, square)
    # Differences from one are taken here: in float32, 1 - 0.999 would be off by 5e-5 of itself.
    scalars = (
        step.rate / step.correction1,
        step.beta1,
        1 - step.beta1,
        step.beta2,
        1 - step.beta2,
        math.sqrt(step.correction2),
        step.eps,
    )
    on_sphere, follower = along is not None, trained.follower
    if follower is not None:
        _check(weight, follower)
    with torch.cuda.device_of(weight):
        kernels().update_row[(weight.shape[0],)](
            weight, grad, mean, square, along if on_sphere else scale, scale, weight if follower is None else follower,
            *scalars, trained.share, **_tiling(weight), ON_SPHERE=on_sphere, FOLLOWS=follower is not None,
        )  # fmt: skip


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
    return {"D": width, "BLOCK": block, "num_warps": min(16, max(1, block // 512)), "enable_fp_fusion": True}
