"""Two sets of directions, matched: nearest neighbours, and the best pairing of one with one (Hungarian).

Cosines are computed in chunks. Only the pairing needs them all at once, as one float64 matrix [smaller, larger]: 2 GiB for
16,384 with 16,384, where it takes half a minute on one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.errors import CoderError

_CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Nearest:
    """For every row of one set the most similar row of another, and their cosine."""

    index: Int[Tensor, "n"]
    cosine: Float[Tensor, "n"]


@dataclass(frozen=True)
class Pairing:
    """min(n, m) pairs (`left`, `right`) with their cosines, in order of `left`."""

    left: Int[Tensor, "pairs"]
    right: Int[Tensor, "pairs"]
    cosine: Float[Tensor, "pairs"]


def unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of length one, float32; a row of zeros stays so and has cosine 0 with everything. CoderError on NaN."""
    rows = rows.detach().float()
    if not bool(rows.isfinite().all()):
        raise CoderError("a decoder holds NaN or infinity; its directions cannot be compared")
    scaled: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return scaled


@torch.no_grad()
def nearest(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Nearest:
    """For each row of `a` the row of `b` with the largest (signed) cosine."""
    a, b = unit(a), unit(b).to(a.device)
    found = [(part @ b.T).max(1) for part in a.split(max(1, _CHUNK_ELEMENTS // max(1, b.shape[0])))]
    return Nearest(torch.cat([part.indices for part in found]), torch.cat([part.values for part in found]))


@torch.no_grad()
def pairing(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], *, absolute: bool = False) -> Pairing:
    """The one-to-one pairing with the largest sum of cosines (`absolute`: of |cosine|, and so reported), exactly
    (Kuhn, 1955; Jonker & Volgenant's algorithm in scipy)."""
    from scipy.optimize import linear_sum_assignment

    if a.shape[0] > b.shape[0]:
        turned = pairing(b, a, absolute=absolute)
        order = turned.right.argsort()
        return Pairing(turned.right[order], turned.left[order], turned.cosine[order])
    a, b = unit(a), unit(b).to(a.device)
    # Negated, float64 and no taller than wide: what scipy would otherwise copy the whole to get.
    cost = np.empty((a.shape[0], b.shape[0]))
    start = 0
    for part in a.split(max(1, _CHUNK_ELEMENTS // max(1, b.shape[0]))):
        cosines = (part @ b.T).cpu().numpy()
        cost[start : start + len(cosines)] = -(np.abs(cosines) if absolute else cosines)
        start += len(cosines)
    left, right = linear_sum_assignment(cost)
    return Pairing(torch.from_numpy(left), torch.from_numpy(right), torch.from_numpy(-cost[left, right]))
