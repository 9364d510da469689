"""How much place to make for a selection whose size only the device knows."""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

# Place for so many times the entries of a batch, rounded up, and for a few.
_AMPLE, _AT_LEAST = 1.5, 1024
# With less place than this times the entries, more is made.
_TIGHT = 1.25
# How many batches the host may be ahead of the newest count it has heard of.
_AHEAD = 8


@dataclass(frozen=True)
class _Coming:
    """A count on its way to the host, and the place that its batch had."""

    count: Int[Tensor, ""]
    arrived: torch.cuda.Event
    place: int | None


class Room:
    """Place for a coder's entries in training on a GPU, from the counts of the batches before.

    A size that depends on data makes the host wait for the device, each step. So a selection is given place for half as
    many entries again as lately, and its true count comes to the host when it comes, some batches later. From one batch
    to the next L0 moves by a few per cent; should it ever outgrow its place, the entries left out are said in a warning and
    the place grows.
    """

    def __init__(self) -> None:
        self._place: int | None = None
        self._coming: deque[_Coming] = deque()

    def entries(self) -> int | None:
        """Place for the next batch, or None where no batch has been counted yet."""
        while self._coming and (len(self._coming) > _AHEAD or self._coming[0].arrived.query()):
            first = self._coming.popleft()
            first.arrived.synchronize()
            self._heed(int(first.count), first.place)
        return self._place

    def tell(self, count: Int[Tensor, ""]) -> None:
        """How many entries the batch had that `entries` was last asked for. Does not wait for a GPU."""
        if count.device.type != "cuda":
            self._heed(int(count), self._place)
            return
        on_host = torch.empty(count.shape, dtype=count.dtype, pin_memory=True).copy_(count, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(count.device))
        self._coming.append(_Coming(on_host, arrived, self._place))

    def _heed(self, count: int, place: int | None) -> None:
        if place is not None and count > place:
            warnings.warn(
                f"a batch had about {count:,} active entries and place for {place:,} of them; the rest, of its last "
                "tokens, was left out of that step",
                stacklevel=2,
            )
        wanted = math.ceil(_AMPLE * count) + _AT_LEAST
        # A new size for every batch would keep the device's memory in pieces of all sizes.
        if self._place is None or self._place < _TIGHT * count or self._place > 2 * wanted:
            self._place = wanted
