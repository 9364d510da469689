"""Which device and which precision a model runs in when the person says `auto`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from saescope.errors import UsageError, nearest

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float64": torch.float64,
}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA, else Apple MPS, else CPU. UsageError for a device that is not here."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device {device!r} is not one torch knows; use auto, cpu, cuda, cuda:N or mps") from None
    if wanted.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {device} is none that saescope runs on; use auto, cpu, cuda, cuda:N or mps")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device} is not here: torch sees {torch.cuda.device_count()} CUDA devices; use auto")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device mps is not here: torch sees no Apple GPU; use auto")
    return wanted


@cache
def has_native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matmuls run in hardware; emulated ones are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
    return False


def exact_float(device: torch.device) -> torch.dtype:
    """What sums over many values are taken in on that device: float64, but Apple's GPUs have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where `device` has it natively, else float32. UsageError for an unknown name."""
    if isinstance(dtype, torch.dtype):
        if not dtype.is_floating_point:
            raise UsageError(f"dtype {dtype} cannot hold a model's weights; use auto, float32, bfloat16 or float16")
        return dtype
    if dtype == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    if dtype not in _DTYPES:
        hint = nearest(dtype, _DTYPES)
        raise UsageError(f"dtype {dtype!r} is not known; use auto, float32, bfloat16 or float16{hint}")
    return _DTYPES[dtype]


def _cpu_flags() -> set[str]:
    """The processor's feature words; empty where the system does not list them."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    for line in lines:
        key, _, words = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(words.split())
    return set()
