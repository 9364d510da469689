"""Which implementation of the hot operations runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from saescope.errors import UsageError, nearest
from saescope.kernels import reference, sparse
from saescope.kernels.operations import Kernels

try:
    from saescope.kernels import cpu
except ImportError:  # no numba here: torch's operators do it all
    cpu = None  # type: ignore[assignment]

VARIABLE = "SAESCOPE_KERNELS"
IMPLEMENTATIONS: dict[str, Kernels] = {sparse.name: sparse, reference.name: reference}
if cpu is not None:
    IMPLEMENTATIONS[cpu.name] = cpu

_forced: list[str] = []


def active(device: torch.device) -> Kernels:
    """The implementation in force on `device`: one forced by `using`, else the environment's, else the fastest there."""
    name = _forced[-1] if _forced else os.environ.get(VARIABLE) or _fastest(device)
    try:
        return IMPLEMENTATIONS[name]
    except KeyError:
        raise UsageError(
            f"{VARIABLE}={name!r} names no kernels; choose one of {', '.join(IMPLEMENTATIONS)}"
            f"{nearest(name, IMPLEMENTATIONS)}"
        ) from None


def _fastest(device: torch.device) -> str:
    return device.type if device.type in IMPLEMENTATIONS else sparse.name


@contextmanager
def using(name: str) -> Iterator[Kernels]:
    """Force an implementation within the block."""
    _forced.append(name)
    try:
        yield IMPLEMENTATIONS[name]
    finally:
        _forced.pop()
