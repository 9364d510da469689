"""What probes see of each example: latents or dimensions at its token, or their mean over its text.

A latent counts as f·‖W_dec row‖, so that its unit does not depend on how the coder is scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.coders import SparseCoder, decoder_norms
from saescope.evaluation.code_matrix import as_matrix
from saescope.evaluation.subject import Subject
from saescope.evaluation.text_activations import TextActivations

# Rows encoded at once.
_ROWS = 4096
Weights = Any
"""[examples, rows], scipy CSR: how much each row counts in each example's mean."""
Sparse = Any
"""[examples, d_sae], scipy CSR, float32."""


def text_weights(
    activations: TextActivations, kept: Bool[Tensor, "rows"], texts: Int[np.ndarray, "examples"]
) -> Weights:
    """The mean over the kept rows of each of these texts. A text without any gets nothing."""
    rows, owner = torch.nonzero(kept)[:, 0].numpy(), activations.text[kept].numpy()
    place = np.full(activations.n_texts, -1)
    place[texts] = np.arange(len(texts))
    rows, owner = rows[place[owner] >= 0], place[owner[place[owner] >= 0]]
    counts = np.bincount(owner, minlength=len(texts))
    shape = (len(texts), activations.tokens.numel())
    return scipy.sparse.csr_matrix((1.0 / counts[owner], (owner, rows)), shape=shape, dtype=np.float32)


def row_weights(activations: TextActivations, rows: Int[np.ndarray, "examples"]) -> Weights:
    """Single rows."""
    ones, shape = np.ones(len(rows), dtype=np.float32), (len(rows), activations.tokens.numel())
    return scipy.sparse.csr_matrix((ones, (np.arange(len(rows)), rows)), shape=shape)


def pooled(
    weights: Weights, values: Callable[[Int[Tensor, "chosen"]], Any], told: Callable[[int, int], None] | None = None
) -> Any:
    """weights @ values(rows), [examples, d], sparse or dense as `values` gives them, in pieces of a few thousand rows.

    Examples of the same text come together, so that a row is seldom computed twice. `told(examples done, in all)`.
    """
    n = weights.shape[0]
    lengths = np.diff(weights.indptr)
    first = np.full(n, weights.shape[1])
    first[lengths > 0] = weights.indices[weights.indptr[:-1][lengths > 0]]
    order = np.argsort(first, kind="stable")
    pieces = []
    piece = np.cumsum(lengths[order]) // _ROWS
    for number in np.unique(piece):
        part = weights[order[piece == number]]
        rows = np.unique(part.indices)
        pieces.append(part[:, rows] @ values(torch.from_numpy(rows.astype(np.int64))))
        if told is not None:
            told(sum(found.shape[0] for found in pieces), n)
    back = np.argsort(order)
    if scipy.sparse.issparse(pieces[0]):
        return scipy.sparse.vstack(pieces, format="csr")[back]
    return np.concatenate(pieces)[back]


def latents(subject: Subject, coder: SparseCoder, activations: TextActivations) -> Callable[[Tensor], Sparse]:
    """Rows -> their latents. `coder`: the subject's own or a control that reads the same points."""
    points = [part.point for part in subject.coder.reads]
    norms = decoder_norms(coder)

    @torch.no_grad()
    def values(rows: Int[Tensor, "chosen"]) -> Sparse:
        codes = coder.encode(activations.concatenated(points, rows))
        return as_matrix(codes, codes.values * norms[codes.indices])

    return values


def dimensions(subject: Subject, activations: TextActivations) -> Callable[[Tensor], Float[np.ndarray, "chosen d_in"]]:
    """Rows -> the dimensions of what the coder reads."""
    points = [part.point for part in subject.coder.reads]
    return lambda rows: activations.concatenated(points, rows).numpy()
