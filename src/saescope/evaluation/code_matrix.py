"""Codes of many rows as one sparse matrix, whose columns and rows are both cheap to take."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from saescope.coders import Codes, SparseCoder

_CHUNK_ROWS = 2048


@torch.no_grad()
def code_matrix(coder: SparseCoder, x: Float[Tensor, "rows d_in"]) -> sparse.csr_matrix:
    """Activations of every latent at every row, [rows, d_sae] in compressed rows of float32, encoded in chunks."""
    parts = []
    for piece in x.split(_CHUNK_ROWS):
        codes = coder.encode(piece).without_zeros()
        parts.append(as_matrix(codes, codes.values))
    return sparse.vstack(parts, format="csr")


def as_matrix(codes: Codes, values: Float[Tensor, "nnz"]) -> sparse.csr_matrix:
    """[tokens, d_sae] in compressed rows of float32, on the processor: `values` at the codes' support."""
    arrays = (values.float(), codes.indices, codes.pointers)
    return sparse.csr_matrix(tuple(part.cpu().numpy() for part in arrays), shape=(codes.n_tokens, codes.d_sae))


def firing(codes: sparse.csr_matrix) -> sparse.csr_matrix:
    """1 where a latent is active."""
    ones = np.ones_like(codes.data)
    return sparse.csr_matrix((ones, codes.indices, codes.indptr), shape=codes.shape)


def dense_columns(codes: sparse.spmatrix, columns: list[int]) -> Float[Tensor, "rows columns"]:
    """Some latents at every row."""
    return torch.from_numpy(codes[:, columns].toarray())


def decoder_rows(coder: SparseCoder) -> Float[Tensor, "d_sae d_out"]:
    """What each latent writes, in float32 on the processor."""
    return coder.W_dec.detach().float().cpu()


def shuffled_rows(W_dec: Float[Tensor, "d_sae d_out"], seed: int) -> Float[Tensor, "d_sae d_out"]:
    """Each latent with another's decoder row, by chance."""
    return W_dec[torch.randperm(W_dec.shape[0], generator=torch.Generator().manual_seed(seed))]
