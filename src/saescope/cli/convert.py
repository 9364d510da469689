"""`saescope convert`: coders between the files of saescope and of other tools."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saescope.errors import ForeignCoderWarning, UsageError

_EXAMPLE = "Example: saescope convert runs/first/coder sae --to sae_lens"


def register(app: typer.Typer) -> None:
    app.command("convert", epilog=_EXAMPLE)(convert)


def convert(
    source: Annotated[
        str | None,
        typer.Argument(metavar="SRC", help="Folder, file, or hub repository (owner/name, owner/name/folder)."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DST", help="Folder to write; must not exist or be empty.")
    ] = None,
    to: Annotated[str, typer.Option("--to", help="Format to write; --list shows them.")] = "saescope",
    source_format: Annotated[
        str | None, typer.Option("--from", help="Format of SRC.", show_default="as its files show")
    ] = None,
    reads: Annotated[str | None, typer.Option(help="Hook point it reads, where its files do not say.")] = None,
    writes: Annotated[str | None, typer.Option(help="Hook point it writes, where its files do not say.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", help="Which file of SRC, where it holds several coders.")
    ] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Which layer of SRC, where it holds one for each.")] = None,
    input_scale: Annotated[
        str | None,
        typer.Option(
            help="What activations are multiplied by, where its files leave that out; two, comma-separated, for two models."
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the formats and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Read a coder in any format that saescope knows and write it in another."""
    from saescope.coders import FORMATS, export, load, load_reference
    from saescope.coders.formats import format_named

    console = Console(highlight=False, soft_wrap=True)
    if listing:
        if as_json:
            typer.echo(json.dumps([_row(row) for row in FORMATS], indent=1))
        else:
            console.print(_table(FORMATS))
        return
    if source is None or folder is None:
        raise UsageError("convert takes a coder and a folder to write: saescope convert SRC DST --to FORMAT")
    format_named(to, writes=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeignCoderWarning)
        coder = load(
            source,
            format=source_format,
            file=file,
            layer=layer,
            reads=reads,
            writes=writes,
            input_scale=_numbers(input_scale),
        )
    export(coder, folder, to, reference=load_reference(source) if file is None else None)
    imported = {"format": "saescope", "warnings": []} | coder.metadata.imported
    if as_json:
        shape = {"d_in": coder.d_in, "d_sae": coder.d_sae, "d_out": coder.d_out}
        points = {"reads": [part.point for part in coder.reads], "writes": [part.point for part in coder.writes]}
        about = {"architecture": coder.architecture.name, "kind": coder.kind}
        done = {"from": imported["format"], "to": to, "folder": str(folder), "warnings": imported["warnings"]}
        typer.echo(json.dumps(done | about | shape | points, indent=1))
        return
    for text in imported["warnings"]:
        console.print(f"[yellow]assumed:[/] {escape(text)}")
    console.print(f"{escape(coder.extra_repr())}: {escape(str(imported['format']))} -> {to}, in {escape(str(folder))}")


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--input-scale {text!r} is no number; write 0.05, or 0.05,0.04 for two models") from None


def _row(row: Any) -> dict[str, str]:
    return {"name": row.name, "title": row.title, "files": row.files, "reads": row.reads, "writes": row.writes}


def _table(rows: Any) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        lines = [row.title, f"known by {row.files.replace('`', '')}", f"reads {row.reads}"]
        lines.append(f"writes {row.writes}" if row.writes else "is not written")
        table.add_row(f"[bold]{row.name}[/]", escape("\n".join(lines)))
    return table
