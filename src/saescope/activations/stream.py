"""What a trainer needs of activations, whether they come from a store or straight from the model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.activations.exclusions import KeptRule
from saescope.activations.statistics import PointStatistics
from saescope.errors import StoreError, UsageError
from saescope.lm.identity import comparable


@dataclass(frozen=True)
class RowLabels:
    """Where each row of a batch came from: token id, document index, sequence id, 0-based position in the sequence."""

    token: Int[Tensor, "batch"]
    document: Int[Tensor, "batch"]
    sequence: Int[Tensor, "batch"]
    position: Int[Tensor, "batch"]


@runtime_checkable
class ActivationSource(Protocol):
    """Shuffled batches of kept training rows, `[batch, d_total]`: the points' vectors one after the other.

    Iterating goes on from the current step to `n_steps`; a batch counts as done when it is handed over, so a state taken
    in the loop's body continues with the next batch. Batches depend on the seed and the step only.
    """

    @property
    def points(self) -> tuple[str, ...]: ...
    @property
    def widths(self) -> dict[str, int]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def n_steps(self) -> int: ...
    @property
    def n_rows(self) -> int:
        """Training rows in one pass (for `ModelStream` an upper bound: sinks are not known beforehand)."""
        ...

    @property
    def kept_rule(self) -> KeptRule: ...
    @property
    def trained_documents(self) -> list[str]:
        """Ids of the documents that the batches are drawn from."""
        ...

    def statistics(self) -> dict[str, PointStatistics]:
        """Mean and mean squares of the training rows at each point."""
        ...

    def held_out_rows(self, max_rows: int) -> Float[Tensor, "n d_total"]:
        """A fixed sample of at most `max_rows` kept rows of held-out documents; empty where there are none."""
        ...

    def provenance(self) -> dict[str, Any]:
        """JSON: model, corpus, sequence options, kept rule, trained document ids."""
        ...

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def __iter__(self) -> Iterator[Float[Tensor, "batch d_total"]]: ...
    def with_labels(self) -> Iterator[tuple[Float[Tensor, "batch d_total"], RowLabels]]: ...
    def close(self) -> None:
        """Stops the background thread; iterating again is allowed."""
        ...


Batch = tuple[Float[Tensor, "batch d_total"], RowLabels | None]


class SteppedStream(ABC):
    """The part of a source that counts steps: iteration, its one background thread, saving and restoring."""

    def __init__(self, *, n_rows: int, batch_size: int, seed: int, passes: float, described: str):
        if batch_size < 1:
            raise UsageError(f"batch size must be positive, got {batch_size}")
        if not 0 < passes < math.inf:
            raise UsageError(f"passes must be a positive number, got {passes}")
        if seed < 0:
            raise UsageError(f"seed must not be negative, got {seed}")
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed
        self.passes = passes
        self.step = 0
        self.n_steps = int(n_rows * passes) // batch_size
        if not self.n_steps:
            raise UsageError(
                f"{described} gives {int(n_rows * passes):,} training rows, less than one batch of {batch_size:,}; "
                "use more text or a smaller batch"
            )
        self._active: Generator[Batch, None, None] | None = None

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_total"]]:
        with closing(self._stepped(labelled=False)) as batches:
            for rows, _ in batches:
                yield rows

    def with_labels(self) -> Iterator[tuple[Float[Tensor, "batch d_total"], RowLabels]]:
        """The same batches, with where each row came from."""
        with closing(self._stepped(labelled=True)) as batches:
            for rows, labels in batches:
                assert labels is not None
                yield rows, labels

    def close(self) -> None:
        """Stops the background thread; iterating again goes on from the current step."""
        if self._active is not None:
            self._active.close()
            self._active = None

    def state_dict(self) -> dict[str, Any]:
        """The step, and enough of the stream's description to refuse another one's state."""
        return {"step": self.step, "stream": self._description()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next batch is the one that would have come next; StoreError for the state of another stream."""
        mine, theirs = comparable(self._description(), state.get("stream", {}))
        if different := [key for key in mine if mine[key] != theirs.get(key)]:
            raise StoreError(
                f"the saved position is of another stream (different {', '.join(different)}); "
                "give what it was begun with, or start afresh"
            )
        self.close()
        self.step = int(state["step"])

    @abstractmethod
    def _description(self) -> dict[str, Any]:
        """JSON: all that the order of rows depends on."""

    @abstractmethod
    def _batches(self, labelled: bool) -> Generator[Batch, None, None]:
        """Batches from the current step on."""

    def _stepped(self, labelled: bool) -> Generator[Batch, None, None]:
        self.close()
        batches = self._active = self._batches(labelled)
        try:
            for batch in batches:
                self.step += 1
                yield batch
        finally:
            batches.close()


def for_transfer(batch: Tensor) -> Tensor:
    """Page-locked where there is a CUDA device to copy to, so that the copy can overlap with work."""
    return batch.pin_memory() if torch.cuda.is_available() else batch
