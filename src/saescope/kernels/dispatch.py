"""Which implementation of the hot operations runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from saescope.errors import UsageError, nearest
from saescope.kernels import cuda, reference, sparse
from saescope.kernels.operations import Kernels

VARIABLE = "SAESCOPE_KERNELS"
IMPLEMENTATIONS: dict[str, Kernels] = {sparse.name: sparse, reference.name: reference, cuda.name: cuda}
try:
    from saescope.kernels import cpu
except ImportError:  # no numba for this Python: torch's operators do it all
    pass
else:
    IMPLEMENTATIONS[cpu.name] = cpu

_forced: list[Kernels] = []


def active(device: torch.device) -> Kernels:
    """The implementation in force on `device`: one forced by `using`, else the environment's, else the fastest there."""
    if _forced:
        return _forced[-1]
    name = os.environ.get(VARIABLE)
    if not name:
        return IMPLEMENTATIONS[_fastest(device)]
    return _named(name)


def _fastest(device: torch.device) -> str:
    if device.type == "cpu" and "cpu" in IMPLEMENTATIONS:
        return "cpu"
    return cuda.name if device.type == "cuda" and cuda.available() else sparse.name


def _named(name: str) -> Kernels:
    if name == cuda.name and (missing := cuda.lacking()):
        raise UsageError(f"kernels {name!r} need {missing}, which is not here; choose sparse, or unset {VARIABLE}")
    try:
        return IMPLEMENTATIONS[name]
    except KeyError:
        raise UsageError(
            f"{VARIABLE}={name!r} names no kernels; choose one of {', '.join(IMPLEMENTATIONS)}"
            f"{nearest(name, IMPLEMENTATIONS)}"
        ) from None


@contextmanager
def using(name: str) -> Iterator[Kernels]:
    """Force an implementation within the block."""
    with _force(_named(name)) as kernels:
        yield kernels


@contextmanager
def timed(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds spent in each operation within the block, filled as it runs. Waits for the device around every operation, so
    the block as a whole is slower on an accelerator."""
    seconds: dict[str, float] = {}
    with _force(cast(Kernels, _Timed(active(device), device, seconds))):
        yield seconds


@contextmanager
def _force(kernels: Kernels) -> Iterator[Kernels]:
    _forced.append(kernels)
    try:
        yield kernels
    finally:
        _forced.pop()


class _Timed:
    def __init__(self, kernels: Kernels, device: torch.device, seconds: dict[str, float]) -> None:
        self._kernels, self._device, self._seconds = kernels, device, seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kernels, name)
        if not callable(found):
            return found

        def run(*args: Any, **options: Any) -> Any:
            started = wait_and_clock(self._device)
            result = found(*args, **options)
            self._seconds[name] = self._seconds.get(name, 0.0) + wait_and_clock(self._device) - started
            return result

        return run


def wait_and_clock(device: torch.device) -> float:
    """The time, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
