"""How many pre-activations are held at once: selection works through a batch in chunks of tokens."""

from __future__ import annotations

import os
from functools import cache

import torch

from saescope.errors import UsageError

VARIABLE = "SAESCOPE_CHUNK_MIB"
# On a processor a chunk should stay in the last-level cache until it has been searched. An accelerator wants large products
# and few searches: a 32nd of its memory, but so much at least, and no more than torch's top-k counts in 32 bits.
_CPU_MIB, _ACCELERATOR_MIB, _MOST_MIB = 16, 256, 2048


def chunk_bytes(device: torch.device) -> int:
    """The bound on one chunk of pre-activations in bytes: `SAESCOPE_CHUNK_MIB`, else what suits the device."""
    given = os.environ.get(VARIABLE)
    if given is None:
        if device.type == "cuda":
            return min(max(_memory(device) // 32, _ACCELERATOR_MIB * 2**20), _MOST_MIB * 2**20)
        return (_CPU_MIB if device.type == "cpu" else _ACCELERATOR_MIB) * 2**20
    try:
        size = float(given)
    except ValueError:
        size = 0.0
    if size <= 0:
        raise UsageError(f"{VARIABLE}={given!r} should be a positive number of MiB, such as 64")
    return int(size * 2**20)


@cache
def _memory(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).total_memory


def token_chunks(n_tokens: int, n_latents: int, dtype: torch.dtype, device: torch.device) -> range:
    """Starts of chunks of tokens whose [tokens, n_latents] in `dtype` keeps within the bound; at least one token each."""
    step = max(1, chunk_bytes(device) // max(1, n_latents * dtype.itemsize))
    return range(0, n_tokens, step)
