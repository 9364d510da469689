"""Two subjects timed in turns: worker processes, pairs of turns, and what the pairs say."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

FOLDER = Path(__file__).parent
# What peers must not do while timed: look for newer files, warn about forks.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "disabled",
}
# A turn shorter than this says little on a machine that others use too.
TURN_SECONDS = 1.0


class WorkerError(Exception):
    """What a worker answered instead of a result."""


class Worker:
    """A process that runs timed steps; it computes only while it is asked."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {})
        )
        started = self._answer()
        self.versions: dict[str, str] = started["versions"]
        self.threads: int = started["threads"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def request(self, do: str, name: str, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "name": name, **more}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"the worker ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise WorkerError(found["error"])
        return found


@dataclass
class Side:
    """A subject in a worker, and how many of its steps make a turn."""

    worker: Worker
    name: str
    spec: dict[str, Any]
    steps: int = 1
    rates: list[float] = field(default_factory=list)

    def make(self, warmup: int, at_least: int, *, fixed: bool = False) -> None:
        """Make it, warm it up, and let a turn take about TURN_SECONDS, unless its steps are `fixed`."""
        self.worker.request("make", self.name, spec=self.spec)
        if warmup:
            self.worker.request("run", self.name, steps=warmup)
        self.steps = at_least
        if not fixed:
            one = self.worker.request("run", self.name, steps=1)["seconds"]
            self.steps = max(at_least, math.ceil(TURN_SECONDS / one))

    def turn(self) -> float:
        """Tokens per second of one turn."""
        found = self.worker.request("run", self.name, steps=self.steps)
        self.rates.append(found["tokens"] / found["seconds"])
        return self.rates[-1]

    def ask(self) -> dict[str, Any]:
        return self.worker.request("ask", self.name)

    def drop(self) -> None:
        self.worker.request("drop", self.name)


@dataclass(frozen=True)
class Compared:
    """Tokens per second of two sides, turn by turn; `ratio` is how many times the first is as fast."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    def record(self) -> dict[str, Any]:
        return {
            "ours_tokens_per_second": [round(rate, 1) for rate in self.ours],
            "theirs_tokens_per_second": [round(rate, 1) for rate in self.theirs],
            "ratio": round(self.ratio, 4),
            "ratio_min": round(min(self.ratios), 4),
            "ratio_max": round(max(self.ratios), 4),
        }


def alternate(ours: Side, theirs: Side, pairs: int) -> Compared:
    """`pairs` times one turn of each, the order changing from pair to pair; neither runs while the other does."""
    ours.rates, theirs.rates = [], []
    for pair in range(pairs):
        for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            side.turn()
    return Compared(ours.rates, theirs.rates)
