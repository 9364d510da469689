"""Where the cuda kernels are tested: on a GPU, or on the CPU through Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from saescope.kernels import cuda

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_triton = pytest.mark.skipif(not cuda.available(), reason=f"the cuda kernels need {cuda.lacking()}")
