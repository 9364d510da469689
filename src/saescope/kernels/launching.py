"""How the Triton kernels are reached, by all that launch them: imported when first used, since not every machine has Triton."""

from __future__ import annotations

import os
from functools import cache
from typing import Any


@cache
def kernels() -> Any:
    """The module `triton_kernels`."""
    from saescope.kernels import triton_kernels

    return triton_kernels


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on CPU tensors: asked for by TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"
