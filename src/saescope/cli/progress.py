"""Progress on long work: bars on standard error, nothing when it is not a terminal's or the person asked for quiet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from saescope.activations import Plan
    from saescope.activations import Progress as HarvestProgress
    from saescope.training import Progress as TrainingProgress
    from saescope.training import Watcher


# Coders shown with a line each while they train.
_MOST_LINES = 8
_COMMON = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())


def quiet() -> bool:
    """Whether progress is unwanted."""
    return bool(os.environ.get("SAESCOPE_QUIET"))


@contextmanager
def training_bar(*, silent: bool = False) -> Iterator[Watcher]:
    """A bar with tokens/s and the time left, and under it a line a coder: loss, L0, FVU, dead share."""
    bar = Progress(
        *_COMMON, TextColumn("{task.fields[speed]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    )
    task = bar.add_task("train", total=None, speed="")
    if silent or quiet():
        yield lambda now: None
        return
    with Live(bar, console=Console(stderr=True, highlight=False), refresh_per_second=4, redirect_stdout=False) as live:

        def watch(now: TrainingProgress) -> None:
            bar.update(task, total=now.n_steps, completed=now.step, speed=f"{now.tokens_per_second:,.0f} tokens/s")
            measured = {name: found for name, found in now.metrics.items() if found}
            lines = [_line(name, found) for name, found in measured.items()]
            if len(lines) > _MOST_LINES:
                lines = [_range(list(measured.values()))]
            live.update(Group(bar, *(Text("  " + line) for line in lines)))

        yield watch


def _line(name: str, metrics: dict[str, float]) -> str:
    text = (
        f"{name} loss {metrics['loss']:.3f} L0 {metrics['l0']:.1f} FVU {metrics['fvu']:.3f} dead {metrics['dead']:.1%}"
    )
    if "held_out_fvu_centered" in metrics:
        text += f" held out FVU {metrics['held_out_fvu_centered']:.3f}"
    return text


def _range(metrics: list[dict[str, float]]) -> str:
    """Many coders in one line, from the lowest to the highest of each number: a line each would not fit the terminal."""

    def between(key: str, form: str) -> str:
        values = [found[key] for found in metrics]
        return f"{min(values):{form}} to {max(values):{form}}"

    return (
        f"{len(metrics)} coders: L0 {between('l0', '.1f')}, FVU {between('fvu', '.3f')}, dead {between('dead', '.1%')}"
    )


class HarvestBar:
    """Prints what a harvest will cost, then moves a bar. `started` tells whether there was anything to do."""

    def __init__(self, bar: Progress, *, silent: bool) -> None:
        self._bar, self._silent = bar, silent
        self._task: TaskID | None = None
        self.started = False

    def __call__(self, event: Plan | HarvestProgress) -> None:
        from saescope.activations import Plan, readable_bytes, readable_seconds

        self.started = True
        if self._silent:
            return
        if isinstance(event, Plan):
            done = f", {event.tokens_done:,} of them already there" if event.tokens_done else ""
            free = "" if event.free_bytes is None else f" of {readable_bytes(event.free_bytes)} free"
            self._bar.console.print(
                f"{event.tokens:,} tokens{done}: at most {readable_bytes(event.bytes)}{free}, "
                f"about {readable_seconds(event.seconds)}"
            )
            return
        if self._task is None:
            self._task = self._bar.add_task("harvest", total=event.tokens_total)
        self._bar.update(self._task, completed=min(event.tokens, event.tokens_total))


@contextmanager
def harvest_bar(*, silent: bool = False) -> Iterator[HarvestBar]:
    """A bar over the tokens of a harvest, after a line that says what it will cost."""
    columns = (TextColumn("tokens"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with _bar(*columns, silent=silent) as bar:
        yield HarvestBar(bar, silent=silent or quiet())


@contextmanager
def stage_bar(*, silent: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each named stage that reports (stage, done, total)."""
    with _bar(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), silent=silent) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield tell


@contextmanager
def _bar(*columns: ProgressColumn, silent: bool) -> Iterator[Progress]:
    console = Console(stderr=True, highlight=False)
    with Progress(*_COMMON, *columns, console=console, disable=silent or quiet(), redirect_stdout=False) as bar:
        yield bar
