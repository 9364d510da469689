"""How likely the unsteered model finds what was said under steering."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from saescope.errors import UsageError
from saescope.lm import LanguageModel


def continuation_perplexity(lm: LanguageModel, prompt: Sequence[int], continuation: Sequence[int]) -> float | None:
    """exp of the mean cross entropy, in nats, of the continuation's tokens given the prompt, under the unedited model.

    None for an empty continuation. UsageError for an empty prompt: nothing predicts the first token.
    """
    if not prompt:
        raise UsageError("a prompt of no tokens predicts nothing; give at least one")
    if not continuation:
        return None
    tokens = torch.tensor([[*prompt, *continuation]], device=lm.device)
    logits = lm.run(tokens, logits=True).logits
    assert logits is not None
    predicted = logits[0, len(prompt) - 1 : -1].float()
    loss = torch.nn.functional.cross_entropy(predicted, tokens[0, len(prompt) :])
    # A text that the model finds impossible is infinitely perplexing, which is no number to send.
    return math.exp(min(float(loss), 700.0))
