"""A batch of token sequences with the place every token came from: what contexts are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.text import TokenSequence


@dataclass(frozen=True)
class Passages:
    """Sequences side by side, short ones filled up on the right.

    tokens: -1 on padding. document: index into a documents table, -1 where no document's token stands (padding, tokens
    put between documents). sequence: an id for each, unique over the whole text.
    """

    tokens: Int[Tensor, "batch seq"]
    document: Int[Tensor, "batch seq"]
    sequence: Int[Tensor, " batch"]

    @property
    def real(self) -> Bool[Tensor, "batch seq"]:
        return self.tokens >= 0

    @staticmethod
    def of(sequences: Sequence[TokenSequence], first: int = 0) -> Passages:
        """From token sequences numbered `first`, `first + 1`, …"""
        context = max(len(sequence) for sequence in sequences)
        tokens = torch.full((len(sequences), context), -1, dtype=torch.int64)
        document = torch.full_like(tokens, -1)
        for row, sequence in enumerate(sequences):
            tokens[row, : len(sequence)] = torch.from_numpy(sequence.tokens).long()
            document[row, : len(sequence)] = torch.from_numpy(sequence.document).long()
        return Passages(tokens, document, torch.arange(first, first + len(sequences)))
