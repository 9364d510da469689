"""Which implementation of the hot operations runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from saescope.errors import UsageError, nearest
from saescope.kernels import cuda, reference, sparse
from saescope.kernels.operations import Kernels

VARIABLE = "SAESCOPE_KERNELS"
IMPLEMENTATIONS: dict[str, Kernels] = {sparse.name: sparse, reference.name: reference, cuda.name: cuda}

_forced: list[str] = []


def active() -> Kernels:
    """The implementation in force: one forced by `using`, else the environment's, else `sparse`."""
    name = _forced[-1] if _forced else os.environ.get(VARIABLE, "sparse")
    if name == cuda.name and (missing := cuda.lacking()):
        raise UsageError(f"{VARIABLE}={name!r} needs {missing}, which is not here; choose sparse, or unset it")
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
    _forced.append(name)
    try:
        yield active()
    finally:
        _forced.pop()
