"""Memory of spent gradients, for the next ones: fresh pages of tens of megabytes cost as much as what is written into them."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_held = threading.local()


def give(tensor: Tensor) -> None:
    """Hand over a float32 tensor of this thread that nobody reads any more. Each shape is held once or twice."""
    kept: dict[torch.Size, list[Tensor]] = _held.__dict__.setdefault("tensors", {})
    spare = kept.setdefault(tensor.shape, [])
    if len(spare) < 2 and tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous():
        spare.append(tensor)


def take(*shape: int) -> Tensor:
    """A float32 tensor of `shape` on the CPU, its contents arbitrary."""
    kept: dict[torch.Size, list[Tensor]] = _held.__dict__.setdefault("tensors", {})
    spare = kept.get(torch.Size(shape))
    return spare.pop() if spare else torch.empty(shape)


def clear() -> None:
    """Let go of what this thread holds."""
    _held.__dict__.pop("tensors", None)
