"""The words whose first letters are probed: whole-word tokens of the model's own vocabulary."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saescope.text import TokenText
from saescope.text.encoding import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "The word {word}"
LEAST_LENGTH = 3
# Of one letter: more words take longer to run, fewer cannot be both learned from and measured on.
MOST_WORDS = 300
LEAST_WORDS = 30
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Words:
    """Words as tokens, each with the number of its letter in `letters`, and whether it is held out from training.

    found: how many words of these letters the vocabulary has.
    """

    token: Int[Tensor, "words"]
    letter: Int[Tensor, "words"]
    test: Bool[Tensor, "words"]
    letters: tuple[str, ...]
    found: int

    def of(self, chosen: Bool[Tensor, "words"]) -> Words:
        """Some of the words."""
        return Words(self.token[chosen], self.letter[chosen], self.test[chosen], self.letters, self.found)

    @property
    def member(self) -> Bool[Tensor, "words letters"]:
        return self.letter[:, None] == torch.arange(len(self.letters))

    @property
    def trainable(self) -> bool:
        """Whether every letter has words on both sides."""
        sides = (self.letter[self.test], self.letter[~self.test])
        return all(side.unique().numel() == len(self.letters) for side in sides)

    def texts(self, tokenizer: PreTrainedTokenizerBase, prefix: Sequence[int]) -> list[list[int]]:
        """What the model reads: `TEMPLATE` after the tokenizer's own beginning, with the word as its last token."""
        before = TextEncoder(tokenizer).encode([TEMPLATE.removesuffix(" {word}")])[0].tokens.tolist()
        return [[*prefix, *before, token] for token in self.token.tolist()]


def vocabulary_words(tokenizer: PreTrainedTokenizerBase, seed: int = 0, most: int = MOST_WORDS) -> Words | None:
    """Lower-case words of a to z that are one token with a space before it, at least three letters long.

    Of each letter at most `most`, at random; letters with fewer than `LEAST_WORDS` are left out. A fifth of each
    letter's words is held out. None where the vocabulary has no two such letters.
    """
    text = TokenText(tokenizer)
    by_letter: dict[str, list[int]] = {letter: [] for letter in string.ascii_lowercase}
    for token in range(len(tokenizer)):
        # The second of two: some decoders drop the space before the first.
        word = text.pieces([token, token])[1]
        if word[:1] == " " and len(word) > LEAST_LENGTH and set(word[1:]) <= _LETTERS:
            by_letter[word[1]].append(token)
    many = {letter: tokens for letter, tokens in by_letter.items() if len(tokens) >= LEAST_WORDS}
    if len(many) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    tokens: list[Tensor] = []
    held_out: list[Tensor] = []
    for found in many.values():
        chosen = torch.tensor(found)[torch.randperm(len(found), generator=generator)[:most]]
        tokens.append(chosen)
        held_out.append(torch.arange(chosen.numel()) < round(TEST_SHARE * chosen.numel()))
    letter = torch.repeat_interleave(torch.arange(len(many)), torch.tensor([part.numel() for part in tokens]))
    return Words(torch.cat(tokens), letter, torch.cat(held_out), tuple(many), sum(map(len, many.values())))


_LETTERS = frozenset(string.ascii_lowercase)
