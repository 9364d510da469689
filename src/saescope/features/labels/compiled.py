"""Loops over features and windows, compiled by numba: whole numbers and float32 in flat arrays, no Python objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """The function as machine code that releases the GIL, kept on disk for the next process where that can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache: compiled anew each time
        return numba.njit(**options)(function)
