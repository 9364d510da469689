"""The table of numbers. On a narrow screen each row becomes a block, so it carries its roles and column names itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saescope.reports.escaping import visible


@dataclass(frozen=True)
class Cell:
    number: str
    interval: str = ""


@dataclass(frozen=True)
class Heading:
    """A row that names the group of rows after it."""

    text: str


@dataclass(frozen=True)
class Numbers:
    """A metric, one line on what it means, and a cell a column."""

    label: str
    meaning: str
    cells: Sequence[Cell]


def table(caption: str, corner: str, columns: Sequence[str], rows: Sequence[Heading | Numbers], *, n_bold: int) -> str:
    """A table whose first `n_bold` columns stand out."""
    heads = "".join(f'<th role="columnheader" scope="col">{visible(name)}</th>' for name in columns)
    body = "".join(_row(row, columns, n_bold) for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{visible(caption)}">'
        f'<table role="table" style="--columns:{len(columns)}"><thead role="rowgroup"><tr role="row">'
        f'<th role="columnheader" scope="col">{visible(corner)}</th>{heads}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def _row(row: Heading | Numbers, columns: Sequence[str], n_bold: int) -> str:
    if isinstance(row, Heading):
        return f'<tr role="row"><th role="rowheader" class="group" colspan="{len(columns) + 1}">{visible(row.text)}</th></tr>'
    cells = [
        f'<td role="cell" class="{"own" if number < n_bold else "control"}" data-column="{visible(name)}">'
        + visible(cell.number)
        + (f'<span class="range">{visible(cell.interval)}</span>' if cell.interval else "")
        + "</td>"
        for number, (name, cell) in enumerate(zip(columns, row.cells, strict=True))
    ]
    return (
        f'<tr role="row"><th role="rowheader" scope="row">{visible(row.label)}'
        f'<span class="meaning">{visible(row.meaning)}</span></th>{"".join(cells)}</tr>'
    )
