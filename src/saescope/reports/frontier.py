"""A sweep's frontiers: one self-contained page, the same as a picture, and every number as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saescope.evaluation.definitions import BY_KEY
from saescope.evaluation.sweep import Frontier, Series, frontier_of
from saescope.evaluation.sweep.frontier import csv_rows
from saescope.reports.escaping import visible
from saescope.reports.layers import CONTROL_NAMES
from saescope.reports.page import document
from saescope.reports.plots import Figure, Line
from saescope.reports.table import Cell, Numbers, table
from saescope.whole_files import write_whole

PAGE, PICTURE, NUMBERS = "frontier.html", "frontier.png", "frontier.csv"
# Classes of the style sheet: coders have a colour each, controls are grey with a dash each.
_CODERS, _CONTROLS, _MOST_CODERS, _MOST_CONTROLS = 10, 20, 10, 7
# A control that damages the model more than ablation does would flatten every curve above it.
_LOWEST = -0.5
_COLUMNS = 3


def write_frontier(records: Sequence[dict[str, Any]], folder: str | Path) -> list[Path]:
    """`frontier.html`, `frontier.csv` and, where matplotlib is installed (the extra `plots`), `frontier.png`; each appears
    under its name only when whole."""
    folder = Path(folder)
    frontiers = frontier_of(records)
    made = [
        write_whole(folder / PAGE, frontier_page(records, frontiers)),
        write_whole(folder / NUMBERS, _csv(records)),
    ]
    picture = _picture(frontiers)
    return made if picture is None else [*made, write_whole(folder / PICTURE, picture)]


def frontier_page(records: Sequence[dict[str, Any]], frontiers: Sequence[Frontier]) -> str:
    """The whole page."""
    slots = _slots(frontiers)
    figures = "".join(_figure(frontier, slots).svg() for frontier in frontiers)
    seeds = sorted({record["cell"]["seed"] for record in records})
    first = records[0]["coder"]
    where = " → ".join(dict.fromkeys(["+".join(first["reads"]), "+".join(first["writes"])]))
    model = records[0]["evaluation"]["model"]
    lead = (
        f'<p class="lead">{len(records)} coders at {visible(where)} of {visible(str(model.get("name")))}, '
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}, measured on the same "
        f"{records[0]['evaluation']['kept_tokens']:,} tokens that trained none of them.</p>"
    )
    bars = (
        "Bars are 95 % intervals over seeds (Student's t)."
        if len(seeds) >= 3
        else "Bars are the first seed's own 95 % intervals, over documents or words: they say nothing of other seeds."
    )
    notes = f'<p class="quiet">L0 as measured, on a logarithmic axis. {bars} Grey: controls.</p>'
    content = f'{lead}{notes}<h2>Against L0</h2><div class="plots">{figures}</div><h2>Every coder</h2>{_table(records)}'
    return document("Frontier", "Frontier of a sweep", content, "<p>Every number is also in frontier.csv.</p>")


def _slots(frontiers: Sequence[Frontier]) -> dict[str, int]:
    """A class of the style sheet for each curve, the same in every plot."""
    coders = dict.fromkeys(s.label for frontier in frontiers for s in frontier.series if not s.control)
    controls = dict.fromkeys(s.label for frontier in frontiers for s in frontier.series if s.control)
    slots = {label: _CODERS + number % _MOST_CODERS for number, label in enumerate(coders)}
    return slots | {label: _CONTROLS + number % _MOST_CONTROLS for number, label in enumerate(controls)}


def _figure(frontier: Frontier, slots: dict[str, int]) -> Figure:
    lines = [
        Line(
            _name(series.label),
            [(place.l0, place.value) for place in series.places],
            marks=True,
            slot=slots[series.label],
            ends=[place.interval for place in series.places],
        )
        for series in frontier.series
    ]
    better = f" {frontier.better.capitalize()} is better." if frontier.better else ""
    return Figure(
        frontier.label,
        "L0",
        _summary(frontier),
        lines=lines,
        log_x=True,
        lowest=_LOWEST if any(_low(series) for series in frontier.series) else None,
        note=frontier.meaning + better,
    )


def _name(label: str) -> str:
    """A curve's name; a control's as other reports have it."""
    return CONTROL_NAMES.get(label.replace(" ", "_"), label)


def _low(series: Series) -> bool:
    return any(place.value < _LOWEST for place in series.places)


def _summary(frontier: Frontier) -> str:
    parts = []
    for series in frontier.series:
        if series.places:
            first, last = series.places[0], series.places[-1]
            parts.append(
                f"{_name(series.label)} from {first.value:.3g} at L0 {first.l0:.3g} to {last.value:.3g} at {last.l0:.3g}"
            )
    return f"{frontier.label} against L0: {'; '.join(parts)}."


def _table(records: Sequence[dict[str, Any]]) -> str:
    shown = ("l0", "fvu_centered", "ce_recovered_mean", "kl", "dead_fraction")
    scores = [
        (part, key)
        for part, key in dict.fromkeys(
            (part, key) for row in records for part, found in row["parts"].items() for key in found.get("scores", {})
        )
    ][:3]
    rows = []
    for record in records:
        cells = [Cell(BY_KEY[key].format(record["coder"].get(key)), _between(record, key)) for key in shown]
        for part, key in scores:
            found = record["parts"].get(part, {}).get("scores", {}).get(key)
            value = None if found is None else found["value"]
            cells.append(Cell("–" if value is None else f"{value:.3f}"))
        cell = record["cell"]
        rows.append(Numbers(cell["name"], f"asked for L0 {cell['l0']:g}, {cell['d_sae']:,} latents", cells))
    columns = [BY_KEY[key].label for key in shown] + [key.replace("_", " ") for _, key in scores]
    return table("Every coder of the sweep", "coder", columns, rows, n_bold=len(columns))


def _between(record: dict[str, Any], key: str) -> str:
    found = record["intervals"]["coder"].get(key)
    return "" if found is None else f"{BY_KEY[key].format(found[0])} – {BY_KEY[key].format(found[1])}"


def _csv(records: Sequence[dict[str, Any]]) -> str:
    rows = csv_rows(records)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _picture(frontiers: Sequence[Frontier]) -> bytes | None:
    """The plots as PNG, or None without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Picture
    except ImportError:
        return None
    rows = math.ceil(len(frontiers) / _COLUMNS)
    columns = min(_COLUMNS, len(frontiers))
    picture = Picture(figsize=(4.6 * columns, 3.3 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(picture)
    handles: dict[str, Any] = {}
    for number, frontier in enumerate(frontiers):
        axes = picture.add_subplot(rows, columns, number + 1)
        coders = controls = 0
        for series in frontier.series:
            style: dict[str, Any]
            if series.control:
                style = {"color": "0.45", "linestyle": [":", "--", "-.", (0, (6, 1)), (0, (3, 1, 1, 1))][controls % 5]}
                controls += 1
            else:
                style = {"color": f"C{coders % 10}"}
                coders += 1
            l0s, values = [place.l0 for place in series.places], [place.value for place in series.places]
            (drawn,) = axes.plot(l0s, values, marker="o", ms=3, lw=1.3, **style)
            for place in series.places:
                if place.interval is not None:
                    axes.vlines(place.l0, *place.interval, color=style["color"], lw=1, alpha=0.6)
            handles.setdefault(_name(series.label), drawn)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("L0")
        axes.set_title(f"{frontier.label}{f' ({frontier.better} is better)' if frontier.better else ''}", fontsize=10)
        axes.grid(alpha=0.25)
        if any(_low(series) for series in frontier.series):
            axes.set_ylim(bottom=_LOWEST)
    picture.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=min(6, len(handles)),
        frameon=False,
        fontsize=9,
    )
    out = io.BytesIO()
    picture.savefig(out, format="png", dpi=110)
    return out.getvalue()
