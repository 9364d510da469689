"""Synthetic activations as a source for training: batches that are a function of (seed, step) alone."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.activations import KeptRule, Moments, PointStatistics, RowLabels
from saescope.activations.stream import Batch, SteppedStream
from saescope.errors import UsageError
from saescope.evaluation.seeding import HELD_OUT, MEASURED, MOMENTS, TRAINING
from saescope.evaluation.synthetic.ground_truth import GroundTruth, Sample

POINT = "synthetic.0"
_MOMENT_ROWS = 2**15
_CHUNK = 4096


class SyntheticStream(SteppedStream):
    """Rows of a `GroundTruth`, made as they are asked for; nothing is kept and no row comes twice.

    `tokens` rows in whole batches, at the one point `synthetic.0`. Held-out rows, the rows behind `statistics()` and those of
    `measured_rows` are independent draws of the same distribution. `step` may be set back: a batch is made again the same.
    """

    def __init__(self, truth: GroundTruth, *, tokens: int, batch_size: int = 1024, seed: int = 0):
        self.truth = truth
        self.points = (POINT,)
        self.widths = {POINT: truth.directions.shape[1]}
        self._statistics: dict[str, PointStatistics] | None = None
        super().__init__(
            n_rows=tokens, batch_size=batch_size, seed=seed, passes=1, described=f"{tokens:,} synthetic rows"
        )

    @property
    def kept_rule(self) -> KeptRule:
        """Nothing is left out."""
        return KeptRule(frozenset(), {})

    @property
    def trained_documents(self) -> list[str]:
        return []

    def sample(self, step: int) -> Sample:
        """The batch of one step, with the features that made it."""
        if not 0 <= step < self.n_steps:
            raise UsageError(f"step {step} is outside this stream's {self.n_steps} steps")
        return next(self.truth.samples(self.batch_size, self.batch_size, TRAINING, self.seed, step))

    def measured_rows(self, tokens: int) -> Iterator[Sample]:
        """Rows for measuring coders: the same whatever a stream's seed, seen by no training."""
        return self.truth.samples(tokens, _CHUNK, MEASURED, self.truth.config.seed)

    def statistics(self) -> dict[str, PointStatistics]:
        """Of 32,768 rows, the same for every seed."""
        if self._statistics is None:
            self._statistics = {POINT: self._moments()}
        return self._statistics

    def held_out_rows(self, max_rows: int) -> Float[Tensor, "n d_total"]:
        """That many rows which are in no batch, on the processor."""
        parts = [part.x.cpu() for part in self.truth.samples(max_rows, _CHUNK, HELD_OUT, self.seed)]
        return torch.cat(parts) if parts else torch.zeros(0, self.widths[POINT])

    def provenance(self) -> dict[str, Any]:
        return {
            "model": {},
            "corpus": {
                "synthetic": self.truth.config.model_dump(mode="json"),
                "tokens": self.n_rows,
                "seed": self.seed,
            },
            "sequences": {},
            "kept_rule": self.kept_rule.to_dict(),
            "trained_documents": [],
            "points": dict(self.widths),
        }

    def with_labels(self) -> Iterator[tuple[Float[Tensor, "batch d_total"], RowLabels]]:
        """UsageError: rows come from no text."""
        raise UsageError("synthetic rows come from no text: they have no token, document or position")

    def _moments(self) -> PointStatistics:
        moments = Moments(self.widths[POINT])
        for part in self.truth.samples(_MOMENT_ROWS, _CHUNK, MOMENTS, self.truth.config.seed):
            moments.add(part.x.cpu())
        return moments.statistics()

    def _description(self) -> dict[str, Any]:
        return {
            "synthetic": self.truth.config.model_dump(mode="json"),
            "tokens": self.n_rows,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    def _batches(self, labelled: bool) -> Generator[Batch, None, None]:
        for step in range(self.step, self.n_steps):
            yield self.sample(step).x, None
