"""Examples of several classes, as tokens' activations and which example each token is of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from saescope.evaluation.letters.examples import LetterExamples


@dataclass(frozen=True)
class ClassSet:
    """Examples of classes that a linear probe should tell apart by their mean activation.

    x [tokens, d]: activations at positions that count. example [tokens]: the example of each, ascending. label, test
    [examples]: the number of its class, and whether it is held out. facts: what the examples are.
    """

    key: str
    title: str
    x: Float[Tensor, "tokens d"]
    example: Int[Tensor, "tokens"]
    label: Int[Tensor, "examples"]
    test: Bool[Tensor, "examples"]
    classes: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def member(self) -> Bool[Tensor, "examples classes"]:
        return self.label[:, None] == torch.arange(len(self.classes))

    @property
    def averaging(self) -> sparse.csr_matrix:
        """[examples, tokens]: times a matrix of tokens, the mean over each example's."""
        counts = torch.bincount(self.example, minlength=self.label.numel())
        share = (1 / counts[self.example]).float().numpy()
        shape = (self.label.numel(), self.example.numel())
        return sparse.csr_matrix((share, (self.example.numpy(), np.arange(shape[1]))), shape=shape)

    @staticmethod
    def of_letters(examples: LetterExamples) -> ClassSet:
        """Words by their first letter, each an example of one token."""
        words = examples.words
        n = words.token.numel()
        facts = {"train": int((~words.test).sum()), "test": int(words.test.sum())}
        return ClassSet(
            "letters", "First letters", examples.read, torch.arange(n), words.letter, words.test, words.letters, facts
        )
