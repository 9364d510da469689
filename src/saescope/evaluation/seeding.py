"""Random streams that have nothing to do with one another, nor with the plain seeds of coders and controls."""

from __future__ import annotations

import numpy as np
import torch

# What a stream is for, the first part of its key.
DIRECTIONS, LOADINGS, MAGNITUDES, FAMILIES, OFFSET, TOY, TRAINING, HELD_OUT, MOMENTS, MEASURED, STABILITY = range(11)


def seeded(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator at the beginning of the stream of this key, the purpose first."""
    # A generator seeded with a small number would repeat what others draw from that number.
    state = np.random.SeedSequence([20_260_217, *key]).generate_state(2, np.uint32).tolist()
    return torch.Generator(device).manual_seed((state[0] << 31) ^ state[1])
