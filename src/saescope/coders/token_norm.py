"""Normalisation of each token by itself, which coders of other tools expect of their input and undo on their output.

It depends on the token, so it cannot be folded into weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import CoderError, nearest

Token = Float[Tensor, "tokens d"]
# SAELens and OpenAI add this to the standard deviation, not to the variance.
_LAYER_NORM_EPS = 1e-5
# As in the root mean square norms of Gemma, Llama and Qwen.
_RMS_EPS = 1e-6


def _layer_norm(x: Token) -> tuple[Token, Token, Token]:
    """mean, divisor and scale of (x - mean) / (s + 1e-5), undone by y·s + mean, with s the unbiased standard deviation."""
    spread = x.std(dim=-1, keepdim=True)
    return x.mean(dim=-1, keepdim=True), spread + _LAYER_NORM_EPS, spread


def _constant_norm(x: Token) -> tuple[Token, Token, Token]:
    """x·√d / ‖x‖, undone by y·‖x‖ / √d. A zero stays zero."""
    size = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    return torch.zeros_like(size), size.clamp(min=1e-30), size


def _rms_norm(x: Token) -> tuple[Token, Token, Token]:
    """x / √(mean(x²) + 1e-6): a model's norm before its gain."""
    size = (x.square().mean(dim=-1, keepdim=True) + _RMS_EPS).sqrt()
    return torch.zeros_like(size), size, size


_KINDS: dict[str, Callable[[Token], tuple[Token, Token, Token]]] = {
    "layer_norm": _layer_norm,
    "constant_norm_rescale": _constant_norm,
    "rms_norm": _rms_norm,
}


@dataclass(frozen=True)
class TokenNorm:
    """One of `layer_norm`, `constant_norm_rescale` (both as SAELens defines them) and `rms_norm`.

    x and y are [tokens, d]: what a coder reads, and what it writes in normalised units.
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise CoderError(
                f"unknown normalisation of tokens {self.kind!r}; there are {', '.join(_KINDS)}{nearest(self.kind, _KINDS)}"
            )

    def apply(self, x: Token) -> Token:
        """x, normalised."""
        shift, divisor, _ = _KINDS[self.kind](x)
        return (x - shift) / divisor

    def undo(self, y: Token, x: Token) -> Token:
        """y in the units of x, by the moments of x."""
        shift, _, scale = _KINDS[self.kind](x)
        return y * scale + shift
