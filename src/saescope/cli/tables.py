"""Tables of results for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from saescope.evaluation import Evaluation

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
_IN_A_ROW = ("l0", "fvu_centered", "ce_recovered_mean", "dead_fraction")


def results_table(evaluations: Sequence[Evaluation]) -> Table:
    """All main numbers of a few coders; a row each, ordered by layer, of many."""
    if len(evaluations) <= _MOST_IN_FULL:
        return metrics_table(evaluations)
    from saescope.evaluation import BY_KEY
    from saescope.lm import common_layer

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("coder", no_wrap=True)
    for key in _IN_A_ROW:
        table.add_column(BY_KEY[key].label, justify="right", no_wrap=True)
        if key == "fvu_centered":
            for heading in ("95 %", "random", "pca"):
                table.add_column(heading, justify="right", no_wrap=True)
    for evaluation in sorted(evaluations, key=lambda found: common_layer(found.coder["writes"]) or 0):
        cells = [escape(evaluation.name)]
        for key in _IN_A_ROW:
            metric = BY_KEY[key]
            cells.append(f"[bold]{metric.format(evaluation.coder.get(key))}[/]")
            if key == "fvu_centered":
                interval = evaluation.intervals["coder"].get(key)
                cells.append("" if interval is None else f"[dim]{' – '.join(map(metric.format, interval))}[/]")
                cells += [metric.format(evaluation.controls[name].get(key)) for name in ("frozen_random", "pca")]
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
