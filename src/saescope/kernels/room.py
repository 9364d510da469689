"""How much place to make for a selection whose size only the device knows."""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

# Place for so many times the entries of a batch, and for a few more.
_AMPLE, _AT_LEAST = 1.5, 1024
# With less place than this times the entries, more is made.
_TIGHT = 1.25
# The first batches of a run, in which L0 swings, are waited for.
_SWINGING = 64
# How many batches the host may be ahead of the newest counts it has heard of.
_AHEAD = 8


@dataclass(frozen=True)
class Places:
    """Entries there is place for: `near` their thresholds, as a product in low precision finds them, and `chosen` of these."""

    near: int
    chosen: int


@dataclass(frozen=True)
class _Coming:
    """Counts on their way to the host, and the places that their batch had."""

    counts: Int[Tensor, "2"]
    arrived: torch.cuda.Event
    places: Places | None


class Room:
    """Place for a coder's entries in training on a GPU, from the counts of the batches before.

    A size that depends on data makes the host wait for the device, each step. So a selection is given place for half as
    many entries again as lately, and its true counts come to the host when they come, some batches later. From one batch
    to the next L0 moves by a few per cent; should it ever outgrow its place, the entries left out are said in a warning and
    the place grows.
    """

    def __init__(self) -> None:
        self._places: Places | None = None
        self._told = 0
        self._coming: deque[_Coming] = deque()

    def __deepcopy__(self, memo: dict[int, Any]) -> Room:
        # What is on its way here is told to one, and a device's events cannot be copied.
        return Room()

    def places(self) -> Places | None:
        """Those of the next batch, or None where its size is to be waited for."""
        while self._coming and (len(self._coming) > _AHEAD or self._coming[0].arrived.query()):
            first = self._coming.popleft()
            first.arrived.synchronize()
            self._heed(first.counts, first.places)
        return self._places if self._told >= _SWINGING else None

    def tell(self, counts: Int[Tensor, "2"], places: Places | None) -> None:
        """How many entries near their thresholds, and how many chosen ones, a batch had, and the places it was given, None
        where it took as many as it needed. Does not wait for a GPU."""
        self._told += 1
        if counts.device.type != "cuda":
            self._heed(counts, places)
            return
        on_host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True).copy_(counts, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(counts.device))
        self._coming.append(_Coming(on_host, arrived, places))

    def _heed(self, counts: Int[Tensor, "2"], places: Places | None) -> None:
        near, chosen = (int(count) for count in counts)
        if places is not None and near > places.near:
            # Only of those that had their place it is known how many were chosen.
            chosen = math.ceil(chosen * near / places.near)
        if places is not None and (near > places.near or chosen > places.chosen):
            warnings.warn(
                f"a batch had {near:,} entries near their thresholds, about {chosen:,} of them active, and place for "
                f"{places.near:,} and {places.chosen:,}; the rest, of its last tokens, was left out of that step",
                stacklevel=2,
            )
        held = self._places or Places(0, 0)
        self._places = Places(_fitting(held.near, near), _fitting(held.chosen, chosen))


def _fitting(place: int, count: int) -> int:
    """`place` where it fits: a new size for every batch would keep the device's memory in pieces of all sizes."""
    wanted = math.ceil(_AMPLE * count) + _AT_LEAST
    return place if _TIGHT * count <= place <= 2 * wanted else wanted
