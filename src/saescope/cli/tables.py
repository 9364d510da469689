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
_INDENT = "  "


def metrics_table(evaluations: Sequence[Evaluation]) -> Table:
    """A row for each coder and, indented below it, one for each of its controls; 95 % intervals under the numbers."""
    from saescope.evaluation import BY_KEY

    metrics = [BY_KEY[key] for key in _SHOWN]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for metric in metrics:
        table.add_column(metric.label, justify="right")
    for evaluation in evaluations:
        own = [metric.format(evaluation.coder.get(metric.key)) for metric in metrics]
        table.add_row(f"[bold]{escape(evaluation.name)}[/]", *(f"[bold]{number}[/]" for number in own))
        table.add_row(
            f"[dim]{_INDENT}95 %[/]",
            *(f"[dim]{_interval(evaluation, metric.key)}[/]" for metric in metrics),
        )
        for name, control in evaluation.controls.items():
            if "absent" in control:
                table.add_row(f"{_INDENT}{name}", "[dim]not measured[/]")
            else:
                table.add_row(f"{_INDENT}{name}", *(metric.format(control.get(metric.key)) for metric in metrics))
    return table


def _interval(evaluation: Evaluation, key: str) -> str:
    from saescope.evaluation import BY_KEY

    found = evaluation.intervals["coder"].get(key)
    return "" if found is None else f"{BY_KEY[key].format(found[0])}–{BY_KEY[key].format(found[1])}"
