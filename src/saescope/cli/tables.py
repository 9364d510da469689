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
