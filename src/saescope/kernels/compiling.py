"""How numba compiles this package's loops: without the GIL, cached where a cache can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Decorator. The loop releases the GIL, so `threads.in_ranges` can share it out."""
    # Sums may be reordered (that is what makes them vector code); infinities and NaN keep their meaning.
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    }
    try:
        fast: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written: compiled anew each time
        fast = numba.njit(**options)(function)
    return fast
