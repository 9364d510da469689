"""A worker process that times what it is told to, one request at a time. Needs torch only, so that it runs anywhere.

Requests and answers are JSON lines on stdin and stdout; `speed_pairs.Worker` is the other side:

    {"do": "make", "name": "a", "spec": {…}}    makes a subject, replacing one of that name
    {"do": "run", "name": "a", "steps": 3}      -> {"seconds": …, "tokens": …}
    {"do": "ask", "name": "a"}                  -> what the subject says of itself, such as its L0
    {"do": "drop", "name": "a"}

Only what `Subject.step` does is timed: loading the next batch is not.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Protocol

import torch


class Subject(Protocol):
    """Something that is timed in steps of `tokens` tokens."""

    tokens: int

    def load(self) -> None:
        """Untimed: what the next step needs."""

    def step(self) -> float | None:
        """Timed; a subject that must leave something out returns the seconds itself."""

    def ask(self) -> dict[str, Any]:
        """Untimed: facts about it after the steps so far."""


Make = Callable[[dict[str, Any]], Subject]


def serve(make: Make, packages: list[str], threads: int) -> None:
    """Answer requests until stdin ends. The first line out says that the worker is ready, and its versions."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # What libraries print goes to stderr, so that stdout holds answers only.
    os.dup2(2, 1)
    if threads:
        torch.set_num_threads(threads)

    def answer(**found: Any) -> None:
        answers.write(json.dumps(found) + "\n")

    answer(versions={name: version(name) for name in ["torch", *packages]}, threads=torch.get_num_threads())
    subjects: dict[str, Subject] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["name"]
        try:
            if request["do"] == "make":
                _drop(subjects, name)
                subjects[name] = make(request["spec"])
                answer(tokens=subjects[name].tokens)
            elif request["do"] == "run":
                answer(**_run(subjects[name], request["steps"]))
            elif request["do"] == "ask":
                answer(**subjects[name].ask())
            else:
                _drop(subjects, name)
                answer()
        except Exception as error:  # the other side decides what a failure means
            traceback.print_exc()
            answer(error=f"{type(error).__name__}: {error}".splitlines()[0][:200])


def processor_seconds(work: Callable[[], None]) -> float:
    """What `work` takes of the processor: on one thread its time on an idle machine, however busy this one is."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _run(subject: Subject, steps: int) -> dict[str, Any]:
    seconds = 0.0
    for _ in range(steps):
        subject.load()
        started = _clock()
        own = subject.step()
        seconds += _clock() - started if own is None else own
    return {"seconds": seconds, "tokens": steps * subject.tokens}


def _clock() -> float:
    """The time, once a GPU has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _drop(subjects: dict[str, Subject], name: str) -> None:
    subject = subjects.pop(name, None)
    close = getattr(subject, "close", None)
    if close is not None:
        close()
