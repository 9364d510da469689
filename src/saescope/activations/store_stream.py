"""Shuffled batches from a store, in an order that is a function of (seed, pass, step) alone."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saescope.activations.background import ahead
from saescope.activations.exclusions import KeptRule
from saescope.activations.memory import rows_within
from saescope.activations.shards import ROW_TENSORS, Shard
from saescope.activations.statistics import PointStatistics
from saescope.activations.store import Store
from saescope.activations.stream import Batch, RowLabels, SteppedStream, for_transfer
from saescope.errors import UsageError

if TYPE_CHECKING:
    from saescope.lm import Expression

WINDOW_ROWS = 2**19
# Of the rows of a window, mapped from the store's files; the system takes these pages back when it needs them, so this may
# be more than what a process would allocate. 2^19 rows of one point fit up to a width of 4,096.
WINDOW_BYTES = 2**32
_PREFETCH = 2
_PREFETCH_BYTES = 2**28


@dataclass
class _Window:
    """Some whole shards, and the order in which their rows are visited: (`slots[i]`, `rows[i]`) is the i-th."""

    key: tuple[int, int]
    shards: list[Shard]
    slots: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class _Piece:
    """Visits `start:end` of one window of one pass."""

    pass_: int
    window: int
    start: int
    end: int


@dataclass(frozen=True)
class _Plan:
    """One pass: the shards of each window, and where in the pass each window begins (and the last one ends)."""

    pass_: int
    windows: list[list[int]]
    bounds: np.ndarray

    @classmethod
    def of(cls, pass_: int, seed: int, shard_rows: np.ndarray, window_rows: int) -> _Plan:
        windows: list[list[int]] = []
        sizes: list[int] = []
        for shard in np.random.default_rng([seed, pass_]).permutation(len(shard_rows)).tolist():
            n = int(shard_rows[shard])
            # A window without rows would have bounds that no row is between.
            if not n:
                continue
            if not windows or sizes[-1] + n > window_rows:
                windows.append([])
                sizes.append(0)
            windows[-1].append(shard)
            sizes[-1] += n
        return cls(pass_, windows, np.cumsum([0, *sizes]))


class StoreStream(SteppedStream):
    """Every pass visits each row of the split exactly once: shards in random order, consecutive ones grouped into windows
    of at most `window_rows` rows (or one shard), rows shuffled inside a window.

    Batches cross windows and passes; what is short of a batch at the very end is dropped. `passes` may be a fraction. A
    window's shards stay mapped while it lasts: `memory` is what its rows at the chosen points may take, in bytes (default:
    524,288 rows, 4 GiB at most). Each shard's sha256 is compared when it is first met; StoreError names one that is not as
    it was written. `points` may be some of the store's, in any order: names, or an expression such as `"resid_post.*"`.
    """

    def __init__(
        self,
        store: Store,
        points: Expression | None = None,
        *,
        batch_size: int = 4096,
        seed: int = 0,
        passes: float = 1,
        split: str = "train",
        memory: int | None = None,
        prefetch: int | None = None,
    ):
        self.store = store
        self.points = store.points if points is None else tuple(store.point_names.points(points))
        if not self.points:
            raise UsageError("no hook points given; name at least one of the store's")
        self.widths = {point: store.widths[point] for point in self.points}
        self.split = split
        row_bytes = sum(self.widths.values()) * store.dtype.itemsize
        self.window_rows = rows_within(memory, row_bytes, default=WINDOW_BYTES, at_most=WINDOW_ROWS)
        # Batches ahead change no value; of very wide ones there is one.
        ahead_of_use = max(1, min(_PREFETCH, _PREFETCH_BYTES // max(1, batch_size * row_bytes)))
        self._prefetch = ahead_of_use if prefetch is None else prefetch
        self._shard_rows = np.array(store.shard_rows(split), dtype=np.int64)
        self._one_at_a_time = threading.Lock()
        self._pass_plan: _Plan | None = None
        self._window: _Window | None = None
        super().__init__(
            n_rows=int(self._shard_rows.sum()),
            batch_size=batch_size,
            seed=seed,
            passes=passes,
            described=f"the store {store.path}",
        )

    @property
    def kept_rule(self) -> KeptRule:
        return self.store.kept_rule

    @property
    def trained_documents(self) -> list[str]:
        return self.store.trained_documents

    def statistics(self) -> dict[str, PointStatistics]:
        """Of all training rows, as the harvest accumulated them."""
        stored = self.store.statistics()
        return {point: stored[point] for point in self.points}

    def held_out_rows(self, max_rows: int) -> Float[Tensor, "n d_total"]:
        """At most `max_rows` rows of held-out documents, evenly spaced over the store."""
        per_shard = np.array(self.store.shard_rows("held_out"), dtype=np.int64)
        total = int(per_shard.sum())
        chosen = evenly_spaced(total, max_rows)
        bounds = np.cumsum(per_shard)
        rows = torch.empty(len(chosen), sum(self.widths.values()), dtype=self.store.dtype)
        for index in np.unique(np.searchsorted(bounds, chosen, side="right")).tolist():
            shard = self.store.shard(index)
            first = bounds[index] - per_shard[index]
            start, end = np.searchsorted(chosen, [first, bounds[index]]).tolist()
            mine = shard.in_split("held_out").nonzero()[:, 0][torch.from_numpy(chosen[start:end] - first)]
            for point, place in self._columns().items():
                rows[start:end, place] = shard.activations[point].index_select(0, mine)
        return rows

    def provenance(self) -> dict[str, Any]:
        return {**self.store.provenance(), "points": dict(self.widths)}

    def batch(self, step: int) -> Float[Tensor, "batch d_total"]:
        """The batch of one step, whatever was asked for before."""
        return self._assembled(step, labelled=False)[0]

    def _description(self) -> dict[str, Any]:
        return {
            "store": self.store.fingerprint,
            "points": list(self.points),
            "split": self.split,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "window_rows": self.window_rows,
        }

    def _batches(self, labelled: bool) -> Generator[Batch, None, None]:
        first = self.step

        def make(stopped: threading.Event) -> Iterator[Batch]:
            return (self._assembled(step, labelled) for step in range(first, self.n_steps))

        return ahead(make, self._prefetch, "saescope-store-stream")

    def _assembled(self, step: int, labelled: bool) -> Batch:
        if not 0 <= step < self.n_steps:
            raise UsageError(f"step {step} is outside this stream's {self.n_steps} steps")
        # One window and one plan are held, for a batch that is asked for and those that are made ahead alike.
        with self._one_at_a_time:
            return self._gathered(step, labelled)

    def _gathered(self, step: int, labelled: bool) -> Batch:
        rows = torch.empty(self.batch_size, sum(self.widths.values()), dtype=self.store.dtype)
        labels = {name: torch.empty(self.batch_size, dtype=torch.int32) for name in ROW_TENSORS if labelled}
        filled = 0
        for piece in self._pieces(step * self.batch_size, (step + 1) * self.batch_size):
            window = self._opened(piece.pass_, piece.window)
            here = slice(filled, filled + piece.end - piece.start)
            into = {point: rows[here, place] for point, place in self._columns().items()}
            _gather(window, piece, into | {name: values[here] for name, values in labels.items()})
            filled = here.stop
        return for_transfer(rows), RowLabels(**labels) if labelled else None

    def _columns(self) -> dict[str, slice]:
        ends = np.cumsum(list(self.widths.values())).tolist()
        return {point: slice(end - width, end) for (point, width), end in zip(self.widths.items(), ends, strict=True)}

    def _pieces(self, start: int, end: int) -> Iterator[_Piece]:
        """The visits `start:end`, counted over all passes."""
        while start < end:
            pass_, within = divmod(start, self.n_rows)
            bounds = self._plan(pass_).bounds
            window = int(np.searchsorted(bounds, within, side="right")) - 1
            taken = min(end - start, int(bounds[window + 1]) - within)
            first = within - int(bounds[window])
            yield _Piece(pass_, window, first, first + taken)
            start += taken

    def _plan(self, pass_: int) -> _Plan:
        if self._pass_plan is None or self._pass_plan.pass_ != pass_:
            self._pass_plan = _Plan.of(pass_, self.seed, self._shard_rows, self.window_rows)
        return self._pass_plan

    def _opened(self, pass_: int, number: int) -> _Window:
        if self._window is not None and self._window.key == (pass_, number):
            return self._window
        # Two windows at once would double what window_rows promises.
        self._window = None
        shards = [self.store.shard(index, verify=True) for index in self._plan(pass_).windows[number]]
        rows = [shard.in_split(self.split).nonzero()[:, 0].numpy() for shard in shards]
        slots = np.repeat(np.arange(len(shards), dtype=np.int32), [len(r) for r in rows])
        order = np.random.default_rng([self.seed, pass_, number]).permutation(len(slots))
        self._window = _Window((pass_, number), shards, slots[order], np.concatenate(rows)[order])
        return self._window


def _gather(window: _Window, piece: _Piece, into: dict[str, Tensor]) -> None:
    """The visits of one window: for each point or label named, written to its tensor [visits, …].

    Read in ascending order, shard by shard, and put into the order of the visits afterwards: neighbouring rows share
    pages, and in memory the second step costs little. One point is copied at a time.
    """
    slots, local = window.slots[piece.start : piece.end], window.rows[piece.start : piece.end]
    ascending = np.lexsort((local, slots))
    cuts = np.searchsorted(slots[ascending], np.arange(len(window.shards) + 1)).tolist()
    sources = torch.from_numpy(local[ascending])
    back = torch.empty(len(ascending), dtype=torch.int64)
    back[torch.from_numpy(ascending)] = torch.arange(len(ascending))
    for name, target in into.items():
        read = torch.empty(target.shape, dtype=target.dtype)
        for shard, (start, end) in zip(window.shards, pairwise(cuts), strict=True):
            torch.index_select(shard.column(name), 0, sources[start:end], out=read[start:end])
        target.copy_(read.index_select(0, back))


def evenly_spaced(total: int, at_most: int) -> np.ndarray:
    """At most `at_most` different numbers below `total`, ascending, as evenly spread as whole numbers can be."""
    count = min(total, max(at_most, 0))
    return np.arange(count, dtype=np.int64) * total // max(count, 1)
