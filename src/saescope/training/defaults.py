"""What follows from a run's shape and length when nobody says otherwise. The evidence is in docs/training.md."""

from __future__ import annotations

# The peak learning rate measured best at 2^14 latents and _AT_STEPS steps; longer runs want smaller steps by a power of their
# length that meets the recipes in use for 10^5 steps (2e-4 to 3e-4).
_BEST_LR, _AT_STEPS, _FALL = 2.7e-3, 200, 0.4
_LOWEST_LR, _HIGHEST_LR = 2e-4, 6e-3
# A run needs this many steps to get anywhere, and more tokens a step than the most bring little.
_FEWEST_STEPS, _SMALLEST_BATCH, _LARGEST_BATCH = 400, 512, 4096
# A latent silent for so many tokens is dead however long the run.
LONGEST_HORIZON = 10_000_000


def peak_lr(d_sae: int, n_steps: int) -> float:
    """Adam's peak learning rate: 2.7e-3 · (200 / steps)^0.4, at least 2e-4, times sqrt(2^14 / d_sae), at most 6e-3."""
    by_length: float = max(_LOWEST_LR, _BEST_LR * (_AT_STEPS / max(1, n_steps)) ** _FALL)
    by_width: float = (2**14 / d_sae) ** 0.5
    return min(_HIGHEST_LR, by_length * by_width)


def batch_size(tokens: float) -> int:
    """Tokens per step: the power of two that leaves 400 steps, between 512 and 4,096."""
    size = _LARGEST_BATCH
    while size > _SMALLEST_BATCH and tokens / size < _FEWEST_STEPS * 0.9:
        size //= 2
    return size


def dead_horizon(share: float, n_steps: int, batch_size: int) -> int:
    """Tokens of silence after which a latent is dead: that share of the run, ten million at most."""
    return max(1, min(LONGEST_HORIZON, round(share * n_steps * batch_size)))
