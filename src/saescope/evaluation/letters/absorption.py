"""Absorption: a letter's latents fall silent where a more special latent has taken their part.

With u the letter's unit probe direction and f_j the activation of latent j on a word:

    P_j = f_j·‖W_dec_j‖·cos(W_dec_j, u)      what the latent adds along the probe
    P   = activation · u                     what there is; words with P ≤ 0 are not counted
    full absorption      every main latent is silent, and of the others the one with the largest P_j has
                         cosine ≥ .025 and P_j ≥ .4 P
    absorption fraction  M = Σ P_j of the main latents, A = Σ of the ≤ 3 largest P_j of others with cosine ≥ .1;
                         0 if M ≥ P or A < .4 P;  else 1 if M ≤ 0;  else A'/(A' + M) with A' = min(A, P - M)

Main latents are those the letter is split over. After Chanin et al., 2024, and SAEBench.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

FULL_COSINE = 0.025
FRACTION_COSINE = 0.1
SHARE = 0.4
MOST_ABSORBERS = 3


@dataclass(frozen=True)
class Absorption:
    """One letter's words: whether each counts (P > 0), is absorbed in full, and by which fraction; 0 where not counted."""

    counted: Bool[Tensor, "words"]
    full: Bool[Tensor, "words"]
    fraction: Float[Tensor, "words"]


def absorption(
    codes: sparse.csr_matrix,
    W_dec: Float[Tensor, "d_sae d"],
    unit: Float[Tensor, "d"],
    projection: Float[Tensor, "words"],
    main: Iterable[int],
) -> Absorption:
    """Of words with these codes [words, d_sae] and this activation · unit probe; `main`: the letter's latents."""
    along = (W_dec @ unit).double().numpy()
    norms = W_dec.norm(dim=1).double().numpy()
    cosine = along / np.maximum(norms, 1e-30)
    is_main = np.zeros(codes.shape[1], dtype=bool)
    is_main[list(main)] = True
    whole = projection.double().numpy()
    full, fraction = np.zeros(len(whole), dtype=bool), np.zeros(len(whole))
    for word in (whole > 0).nonzero()[0]:
        row = slice(codes.indptr[word], codes.indptr[word + 1])
        latents = codes.indices[row]
        parts = codes.data[row] * along[latents]
        own = is_main[latents]
        others, others_cosine = parts[~own], cosine[latents[~own]]
        if not own.any() and len(others):
            top = others.argmax()
            full[word] = others_cosine[top] >= FULL_COSINE and others[top] >= SHARE * whole[word]
        absorbing = np.sort(others[others_cosine >= FRACTION_COSINE])[-MOST_ABSORBERS:].sum()
        fraction[word] = _fraction(parts[own].sum(), absorbing, whole[word])
    return Absorption(torch.from_numpy(whole > 0), torch.from_numpy(full), torch.from_numpy(fraction))


def _fraction(main: float, absorbing: float, whole: float) -> float:
    if main >= whole or absorbing < SHARE * whole:
        return 0.0
    if main <= 0:
        return 1.0
    taken = min(absorbing, whole - main)
    return taken / (taken + main)
