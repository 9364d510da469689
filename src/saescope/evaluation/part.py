"""What a part of the suite found: numbers, each with its interval, its controls and what to make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from saescope.evaluation.bootstrap import Interval
from saescope.evaluation.definitions import shown


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; None where it cannot be had."""

    value: float | None
    interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value, "interval": None if self.interval is None else list(self.interval)}


@dataclass(frozen=True)
class Score:
    """One number of a part, as the record, the table and the report have it.

    controls: the same number of each control, by the control's name. meaning, misleads: a sentence each. group: the
    heading it stands under where a part has many.
    """

    key: str
    label: str
    found: Estimate
    controls: Mapping[str, Estimate] = field(default_factory=dict)
    meaning: str = ""
    misleads: str = ""
    better: Literal["lower", "higher", ""] = ""
    group: str = ""
    digits: int = 3
    percent: bool = False

    def format(self, value: float | None) -> str:
        return shown(value, self.digits, percent=self.percent)

    def to_dict(self) -> dict[str, Any]:
        beside = {name: estimate.to_dict() for name, estimate in self.controls.items()}
        return {**self.found.to_dict(), "controls": beside}


@dataclass(frozen=True)
class Part:
    """One coder's outcome of one part of the suite.

    lead: a sentence on what was measured and on how much. controls: what each control is. facts: everything needed to
    repeat it (counts, seeds, unit of the intervals) and finer results, as JSON. absent: why there is nothing, if so.
    """

    name: str
    title: str
    lead: str = ""
    scores: tuple[Score, ...] = ()
    controls: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    absent: str = ""

    def to_dict(self) -> dict[str, Any]:
        if self.absent:
            return {"absent": self.absent}
        return {"scores": {score.key: score.to_dict() for score in self.scores}, "facts": dict(self.facts)}

    def __getitem__(self, key: str) -> Score:
        """The score of that key; KeyError where there is none."""
        for score in self.scores:
            if score.key == key:
                return score
        raise KeyError(key)
