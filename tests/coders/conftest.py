"""Small coders of every architecture."""

from __future__ import annotations

from typing import Any

import torch

from saescope.coders import Slice, SparseCoder, make_architecture

# Options at which a small coder of d_sae 48 is interesting. A new architecture adds its row here and is tested with the rest.
OPTIONS: dict[str, dict[str, Any]] = {
    "batchtopk": {"k": 4},
    "matryoshka": {"k": 4, "fractions": [0.1, 0.3]},
    "topk": {"k": 4},
    "jumprelu": {"l0": 4},
    "standard": {"l0": 4},
    "gated": {"l0": 4},
    "abstopk": {"k": 4},
    "matching_pursuit": {"residual_threshold": 0.5, "max_iterations": 4},
}
D_SAE = 48


def small_coder(
    name: str,
    *,
    d_in: int = 10,
    d_out: int | None = None,
    skip: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> SparseCoder:
    """A coder with random weights, unit decoder rows, and biases that matter."""
    reads = [Slice(point="resid_post.1", width=d_in)]
    writes = reads if d_out is None else [Slice(point="mlp_out.1", width=d_out)]
    coder = SparseCoder(make_architecture(name, D_SAE, OPTIONS[name]), reads, writes, skip=skip, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
        coder.W_dec.div_(coder.W_dec.norm(dim=1, keepdim=True))
        coder.architecture.settle(coder)
        if "threshold" in coder.extra_names:
            coder.extra("threshold").copy_(torch.rand(D_SAE, generator=generator))
    return coder


def on_its_device(coder: SparseCoder, kernels: str) -> SparseCoder:
    """On the GPU, where there is one, for the kernels that are for it."""
    return coder.to("cuda") if kernels == "cuda" and torch.cuda.is_available() else coder


def some_x(tokens: int = 30, width: int = 10, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2
