"""Which dimensions of the written space a feature's decoder row lies along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from saescope.coders import SparseCoder

N_NEURONS = 10
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Neurons:
    """index int32 [d_sae, k]: dimensions of largest |weight|, largest first; weight float32 [d_sae, k], with its sign; share
    float32 [d_sae, k]: |weight| over the row's L1 norm, 0 for a row of zeros."""

    index: NDArray[np.int32]
    weight: NDArray[np.float32]
    share: NDArray[np.float32]


@torch.no_grad()
def neuron_alignment(coder: SparseCoder, k: int = N_NEURONS) -> Neurons:
    """The `k` largest |components| of every decoder row (of all written points together: dimension i of the concatenated
    vector). What Neuronpedia calls `neuron_alignment_indices`, `_values` and `_l1`."""
    k = min(k, coder.d_out)
    parts = []
    for rows in coder.W_dec.split(_BLOCK_ROWS):
        rows = rows.float()
        order = rows.abs().argsort(dim=1, descending=True, stable=True)[:, :k]
        weight = rows.gather(1, order)
        share = weight.abs() / rows.abs().sum(1, keepdim=True).clamp(min=1e-30)
        parts.append((order.cpu().numpy().astype(np.int32), weight.cpu().numpy(), share.cpu().numpy()))
    return Neurons(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def decoder_norms(coder: SparseCoder) -> NDArray[np.float32]:
    """‖W_dec row‖ of every latent, [d_sae]."""
    norms: NDArray[np.float32] = coder.W_dec.float().norm(dim=1).cpu().numpy()
    return norms
