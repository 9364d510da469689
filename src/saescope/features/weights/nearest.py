"""Each feature's nearest others by the cosine of their decoder or encoder rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saescope.coders import SparseCoder
from saescope.errors import UsageError
from saescope.features.weights.best import (
    SURPLUS,
    block_rows,
    exact_products,
    largest_places,
    ordered,
    rough_dtype,
)

N_NEAREST = 10
# Every row is compared with every other; beyond this that is a quarter of an hour or more on a processor.
MAX_LATENTS = 2**18


@dataclass(frozen=True)
class Nearest:
    """index int32 [rows, k], nearest first; cosine float32 [rows, k]. A row of zeros, or one with fewer than k others, has
    index -1 and cosine 0 in the places left."""

    index: NDArray[np.int32]
    cosine: NDArray[np.float32]


def nearest_decoder(coder: SparseCoder, k: int = N_NEAREST) -> Nearest:
    """By decoder rows, all written points together: features that do alike."""
    return nearest_rows(coder.W_dec, k)


def nearest_encoder(coder: SparseCoder, k: int = N_NEAREST) -> Nearest:
    """By encoder rows, all read points together: features that look for alike."""
    return nearest_rows(coder.W_enc_rows, k)


@torch.no_grad()
def nearest_rows(rows: Float[Tensor, "rows d"], k: int = N_NEAREST) -> Nearest:
    """The `k` other rows of largest cosine to each. UsageError above `MAX_LATENTS` rows.

    Candidates are chosen in bfloat16 where that is native and their cosines recomputed in float32.
    """
    n = rows.shape[0]
    if n > MAX_LATENTS:
        raise UsageError(f"{n:,} latents are too many to compare each with each; nearest features take {MAX_LATENTS:,}")
    index, cosine = np.full((n, k), -1, np.int32), np.zeros((n, k), np.float32)
    m = min(k, n - 1)
    if m <= 0:
        return Nearest(index, cosine)
    norm = rows.detach().float().norm(dim=1, keepdim=True)
    unit = torch.where(norm > 0, rows.detach().float() / norm.clamp(min=1e-30), 0.0)
    dtype = rough_dtype(unit.device)
    rough = unit.to(dtype)
    # One more, for the row finds itself.
    n_candidates = min(m + 1 + SURPLUS, n)
    for start in range(0, n, block_rows(n)):
        stop = min(start + block_rows(n), n)
        places = largest_places(rough[start:stop] @ rough.T, n_candidates)
        values = exact_products(unit[start:stop], unit, places)
        own = torch.arange(start, stop, device=places.device)[:, None]
        values = values.masked_fill((places == own).to(values.device), -torch.inf)
        index[start:stop, :m], cosine[start:stop, :m] = ordered(places, values, m)
    silent = (norm.squeeze(1) == 0).cpu().numpy()
    # Cosine with a row of zeros is no likeness, on either side.
    nothing = ~np.isfinite(cosine) | silent[:, None] | silent[np.maximum(index, 0)]
    index[nothing], cosine[nothing] = -1, 0
    return Nearest(*_first_filled(index, np.clip(cosine, -1, 1)))


def _first_filled(
    index: NDArray[np.int32], cosine: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Empty places moved to each row's end."""
    order = np.argsort(index < 0, axis=1, kind="stable")
    return np.take_along_axis(index, order, 1), np.take_along_axis(cosine, order, 1)
