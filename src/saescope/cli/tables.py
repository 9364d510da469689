"""Tables of results for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from saescope.evaluation import Evaluation, Part, Score

_SHOWN = (
    "fvu_centered",
    "fvu_per_dim",
    "l0",
    "dead_fraction",
    "ce_recovered_mean",
    "ce_recovered",
    "ce_increase",
    "kl",
)


# More coders than this are a row each.
_MOST_IN_FULL = 4
_IN_A_ROW = {"l0": "L0", "fvu_centered": "FVU", "ce_recovered_mean": "CE recovered", "dead_fraction": "dead"}


def results_table(evaluations: Sequence[Evaluation]) -> Table:
    """All main numbers of a few coders; a row each, ordered by layer, of many."""
    if len(evaluations) <= _MOST_IN_FULL:
        return metrics_table(evaluations)
    from saescope.evaluation import BY_KEY
    from saescope.lm import common_layer

    # Six columns stand beside a coder's name in eighty characters; intervals and the other control are in the report.
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("coder", no_wrap=True)
    for heading in _IN_A_ROW.values():
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("pca FVU", justify="right", no_wrap=True)
    for evaluation in sorted(evaluations, key=lambda found: common_layer(found.coder["writes"]) or 0):
        cells = [escape(evaluation.name)]
        cells += [f"[bold]{BY_KEY[key].format(evaluation.coder.get(key))}[/]" for key in _IN_A_ROW]
        cells.append(BY_KEY["fvu_centered"].format(evaluation.controls["pca"].get("fvu_centered")))
        table.add_row(*cells)
    return table


def metrics_table(evaluations: Sequence[Evaluation]) -> Table:
    """The main numbers of each coder, one below the other, with 95 % intervals and the controls beside them."""
    from saescope.evaluation import BY_KEY, CONTROLS

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("coder", "95 %", *CONTROLS):
        table.add_column(heading, justify="right", no_wrap=True)
    for evaluation in evaluations:
        table.add_row(f"[bold]{escape(evaluation.name)}[/]")
        for metric in (BY_KEY[key] for key in _SHOWN):
            found = evaluation.intervals["coder"].get(metric.key)
            interval = "" if found is None else f"{metric.format(found[0])} – {metric.format(found[1])}"
            controls = [metric.format(control.get(metric.key)) for control in evaluation.controls.values()]
            own = metric.format(evaluation.coder.get(metric.key))
            table.add_row(f"  {metric.label}", f"[bold]{own}[/]", f"[dim]{interval}[/]", *controls)
    missing = [
        f"{evaluation.name}: no {name}, because {control['absent']}"
        for evaluation in evaluations
        for name, control in evaluation.controls.items()
        if "absent" in control
    ]
    if missing:
        table.caption, table.caption_justify = escape("\n".join(missing)), "left"
    return table


def parts_tables(evaluations: Sequence[Evaluation]) -> Group:
    """Every score of every part of the suite, with its interval and controls; a coder below the other. A table for each part,
    which has its own controls: all of them side by side would not fit eighty characters."""
    return Group(*(shown for found in evaluations for part in found.parts for shown in _part(found, part)))


def _part(evaluation: Evaluation, part: Part) -> Iterator[RenderableType]:
    yield Text.from_markup(f"[bold]{escape(evaluation.name)}[/]: {escape(part.title)}")
    if part.absent:
        yield Padding(Text(part.absent, style="dim", overflow="fold", no_wrap=False), (0, 0, 0, 2))
    if not part.scores:
        return
    controls = list(dict.fromkeys(name for score in part.scores for name in score.controls))
    table = Table(box=None, padding=(0, 2, 0, 0))
    # A long label is folded before a number is cut; many controls have their names on two lines, to leave it room.
    table.add_column("", overflow="fold", min_width=14)
    headings = [name.replace("_", "_\n") for name in controls] if len(controls) > 2 else controls
    for heading in ("coder", "95 %", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    group = ""
    for score in part.scores:
        if score.group != group:
            group = score.group
            table.add_row(f"  [dim]{escape(group)}[/]")
        table.add_row(*_score_cells(score, controls))
    yield table


def _score_cells(score: Score, controls: Sequence[str]) -> list[str]:
    interval = score.found.interval
    between = "" if interval is None else f"{score.format(interval[0])} – {score.format(interval[1])}"
    beside = [score.format(score.controls[name].value) if name in score.controls else "" for name in controls]
    own = f"[bold]{score.format(score.found.value)}[/]"
    return [f"  {escape(score.label)}", own, f"[dim]{between}[/]", *beside]


def parts_listed() -> Table:
    """The parts that `--suite` takes."""
    from saescope.evaluation import CORE, PARTS

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row(f"[bold]{CORE}[/]", "Reconstruction, sparsity and the model's behaviour; always measured.")
    for kind in PARTS:
        table.add_row(f"[bold]{kind.name}[/]", escape(kind.summary))
    return table
