"""How alike a coder's decoder directions are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Rows compared with all others; beyond this an even sample stands for the rest.
MAX_ROWS = 32768
_CHUNK_ELEMENTS = 2**24


@torch.no_grad()
def nearest_cosine(W_dec: Float[Tensor, "d_sae d"], max_rows: int = MAX_ROWS) -> Float[Tensor, "rows"]:
    """For each latent the largest cosine between its decoder row and another's; for `max_rows` evenly spaced latents
    where there are more. A row of zeros has cosine 0 with everything."""
    d_sae = W_dec.shape[0]
    if d_sae < 2:
        return W_dec.new_zeros(0)
    unit = W_dec / W_dec.norm(dim=1, keepdim=True).clamp(min=1e-30)
    rows = torch.linspace(0, d_sae - 1, min(d_sae, max_rows), dtype=torch.float64).round().long().to(W_dec.device)
    nearest = []
    for part in rows.split(max(1, _CHUNK_ELEMENTS // d_sae)):
        cosines = unit[part] @ unit.T
        cosines[torch.arange(part.numel(), device=part.device), part] = -2.0
        nearest.append(cosines.amax(1))
    return torch.cat(nearest)
