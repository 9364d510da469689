"""What an evaluation found, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saescope.evaluation.part import Part
from saescope.features import ContextTable

SCHEMA = 2


@dataclass(frozen=True)
class Evaluation:
    """One coder's measurement.

    coder: who it is and its numbers, by METRICS.md's names. controls: the same numbers of each control, or
    {"absent": reason}. intervals: per row of the table, metric -> [low, high] or None. evaluation: on what it was measured.
    parts: what other parts of the suite found.
    The rest is for the report: density [d_sae], the contexts of every feature, the titles of the documents that contexts
    index, what text they are from, and the training history.
    """

    coder: dict[str, Any]
    controls: dict[str, dict[str, Any]]
    intervals: dict[str, dict[str, list[float] | None]]
    evaluation: dict[str, Any]
    density: Float[Tensor, "d_sae"]
    contexts: ContextTable
    titles: list[str] = field(default_factory=list)
    contexts_from: str = "the held-out text"
    history: list[dict[str, float]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.coder["name"])

    def with_contexts(self, contexts: ContextTable, titles: list[str], contexts_from: str) -> Evaluation:
        """The same measurement, shown with contexts from other text, such as a whole store."""
        return replace(self, contexts=contexts, titles=titles, contexts_from=contexts_from)

    def with_parts(self, parts: list[Part]) -> Evaluation:
        """The same measurement with other parts of the suite beside it."""
        return replace(self, parts=parts)

    def to_dict(self) -> dict[str, Any]:
        """The JSON record; see docs/evaluation.md."""
        return {
            "schema": SCHEMA,
            "coder": self.coder,
            "controls": self.controls,
            "intervals": self.intervals,
            "evaluation": self.evaluation,
            "parts": {part.name: part.to_dict() for part in self.parts},
        }


def record(evaluations: Sequence[Evaluation]) -> dict[str, Any] | list[dict[str, Any]]:
    """The content of `metrics.json`: one object, or a list of them for several coders."""
    records = [evaluation.to_dict() for evaluation in evaluations]
    return records[0] if len(records) == 1 else records
