"""A section for each part of the suite: number, interval, controls, what it means and how it can mislead."""

from __future__ import annotations

from itertools import groupby

from saescope.evaluation import Estimate, Evaluation, Part, Score
from saescope.reports.escaping import visible
from saescope.reports.layers import CONTROL_NAMES
from saescope.reports.table import Cell, Heading, Numbers, table


def sections(evaluation: Evaluation) -> str:
    """All parts of one coder."""
    return "".join(_section(evaluation.name, part) for part in evaluation.parts)


def _section(name: str, part: Part) -> str:
    heading = f"<h3>{visible(part.title)}</h3>"
    if part.absent:
        return f'{heading}<p class="quiet">Not measured: {visible(part.absent)}.</p>'
    controls = list(dict.fromkeys(control for score in part.scores for control in score.controls))
    rows: list[Heading | Numbers] = []
    for group, members in groupby(part.scores, key=lambda score: score.group):
        rows += [Heading(group)] if group else []
        rows += [
            Numbers(
                score.label,
                " ".join(filter(None, [score.meaning, score.misleads, _which_way(score)])),
                [_cell(score, score.found), *(_cell(score, score.controls.get(control)) for control in controls)],
            )
            for score in members
        ]
    columns = [name, *(CONTROL_NAMES.get(control, control.replace("_", " ")) for control in controls)]
    notes = "".join(
        f'<p class="quiet"><b>{visible(CONTROL_NAMES.get(control, control.replace("_", " ")))}</b>: {visible(meaning)}</p>'
        for control, meaning in part.controls.items()
    )
    unit = part.facts.get("intervals", {}).get("unit")
    notes += f'<p class="quiet">Intervals: 95 %, over resamples of: {visible(unit)}.</p>' if unit else ""
    shown = table(f"{part.title}, with controls and 95 % intervals", "score", columns, rows, n_bold=1)
    return f"{heading}<p>{visible(part.lead)}</p>{shown}{notes}"


def _which_way(score: Score) -> str:
    return f"{score.better.capitalize()} is better." if score.better else ""


def _cell(score: Score, estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell("")
    interval = estimate.interval
    shown = "" if interval is None else f"{score.format(interval[0])} – {score.format(interval[1])}"
    return Cell(score.format(estimate.value), shown)
