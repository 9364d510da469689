"""What this machine has and lacks for saescope, measured where it matters."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

import saescope
from saescope import assets
from saescope.kernels import IMPLEMENTATIONS, VARIABLE, active, cuda
from saescope.lm import has_native_bf16, resolve_device, resolve_dtype

PACKAGES = ("torch", "transformers", "interp-engine", "safetensors", "numpy", "pydantic")
EXTRAS = {
    "datasets": "text from Hugging Face datasets",
    "plots": "a sweep's frontiers as a picture",
    "tensorboard": "metrics to TensorBoard",
    "wandb": "metrics to Weights & Biases",
    "widget": "the explorer's views in notebooks",
}
# The package that an extra is there for, where it goes by another name.
_PACKAGE_OF = {"plots": "matplotlib", "widget": "anywidget"}
_SHAPE = (4096, 576, 9216)
# Measured on a 2-core machine whose bf16 encoder product runs at _REFERENCE_RATE FLOP/s: seconds of the demo's parts that
# scale with the processor (harvest, training, evaluation, index and labels), and those that do not.
_REFERENCE_RATE, _SCALING_SECONDS, _FIXED_SECONDS = 8.5e11, 320.0, 30.0


@dataclass(frozen=True)
class Diagnosis:
    """`saescope doctor`'s findings. Sizes in bytes, durations in seconds."""

    saescope: str
    python: str
    system: str
    packages: dict[str, str]
    device: str
    threads: int
    cores: int
    memory: int
    native_bf16: bool
    kernels: dict[str, str]
    extras: dict[str, bool]
    cache: str
    cached: list[str]
    free_disk: int
    matmul_flops: float
    demo_seconds: float
    advice: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look around and time the one matrix product that bounds training. Takes about two seconds."""
    device = resolve_device("auto")
    cache = assets.cache_dir()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    extras = {name: importlib.util.find_spec(_PACKAGE_OF.get(name, name)) is not None for name in EXTRAS}
    rate = matmul_rate(device)
    memory = psutil.virtual_memory().total
    return Diagnosis(
        saescope=saescope.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages={name: _version(name) for name in PACKAGES},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
        cores=psutil.cpu_count(logical=True) or 1,
        memory=memory,
        native_bf16=has_native_bf16(device),
        kernels={name: _kernels(name, device) for name in IMPLEMENTATIONS},
        extras=extras,
        cache=str(cache),
        cached=[entry.name for entry in assets.list_cached()],
        free_disk=free,
        matmul_flops=rate,
        demo_seconds=_SCALING_SECONDS * _REFERENCE_RATE / rate + _FIXED_SECONDS,
        advice=_advice(device, extras, free, memory),
    )


def _kernels(name: str, device: torch.device) -> str:
    if name == active(device).name:
        return "in use"
    missing = cuda.lacking() if name == cuda.name else None
    return f"needs {missing}" if missing else "here"


def matmul_rate(device: torch.device) -> float:
    """FLOP/s of the demo coder's encoder product, in the precision that training would choose latents in."""
    tokens, width, latents = _SHAPE
    dtype = resolve_dtype("auto", device)
    x = torch.randn(tokens, width, device=device, dtype=dtype)
    weight = torch.randn(latents, width, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float((x @ weight.T)[0, 0])
        best = min(best, time.perf_counter() - started)
    return 2 * tokens * width * latents / best


def _advice(device: torch.device, extras: dict[str, bool], free: int, memory: int) -> list[str]:
    advice = [f"pip install 'saescope[{name}]' for {EXTRAS[name]}" for name, here in extras.items() if not here]
    if device.type == "cpu" and not has_native_bf16(device):
        advice.append("this processor has no bfloat16 arithmetic: models run in float32, about half as fast")
    if free < 3 * 2**30:
        advice.append(
            f"the demo wants 3 GiB of disk, {free / 2**30:.1f} GiB are free; set SAESCOPE_CACHE to another disk"
        )
    if memory < 6 * 2**30:
        advice.append(f"the demo wants 6 GiB of memory, this machine has {memory / 2**30:.1f} GiB")
    if not ((3, 11) <= sys.version_info[:2] <= (3, 13)):
        advice.append("Python 3.11 to 3.13 is what saescope is tested with")
    if VARIABLE in os.environ:
        advice.append(f"{VARIABLE} forces kernels {active(device).name!r}; unset it for the fastest")
    return advice


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
