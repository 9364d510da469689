"""`saescope cache`: what the cache holds, and cleaning it."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from saescope import assets
from saescope.cli.progress import quiet
from saescope.errors import UsageError

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    cache = typer.Typer(invoke_without_command=True, help="List and clean the cache of demo models and text.")
    cache.callback(epilog="Example: saescope cache")(list_assets)
    cache.command("remove", epilog="Example: saescope cache remove gemma3-270m")(remove)
    app.add_typer(cache, name="cache")


def list_assets(context: typer.Context, as_json: JsonOption = False) -> None:
    """List what the cache holds: name, size, licence, folder."""
    if context.invoked_subcommand:
        return
    cached = assets.list_cached()
    if as_json:
        rows = [
            {"name": entry.name, "bytes": entry.n_bytes, "licence": entry.licence, "usable": entry.usable}
            | {"path": str(entry.path)}
            for entry in cached
        ]
        typer.echo(json.dumps({"folder": str(assets.cache_dir()), "assets": rows}, indent=1))
        return
    console = Console(soft_wrap=True)
    console.print(f"cache folder: {assets.cache_dir()}", markup=False)
    if not cached:
        console.print("It is empty. `saescope fetch` fills it.")
        return
    table = Table(box=None)
    for heading in ("name", "what", "size", "licence", "state"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for entry in cached:
        state = "ready" if entry.usable else "stale: fetch makes it again"
        table.add_row(escape(entry.name), entry.title, decimal(entry.n_bytes), entry.licence, state)
    console.print(table)


def remove(
    names: Annotated[list[str] | None, typer.Argument(help="Assets to delete, as `saescope cache` lists them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every asset and interrupted download.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete assets from the cache; `saescope fetch` brings them back."""
    if everything == bool(names):
        raise UsageError("say which assets to delete, or --all; `saescope cache` lists them")
    freed = assets.clear(_say_waiting) if everything else assets.remove(*names or (), waiting=_say_waiting)
    if as_json:
        typer.echo(json.dumps({"bytes_freed": freed}))
    else:
        Console(soft_wrap=True).print(f"{decimal(freed)} freed in {assets.cache_dir()}", markup=False)


def _say_waiting() -> None:
    Console(stderr=True, quiet=quiet(), soft_wrap=True).print(
        "another process is using the cache; waiting for it", style="dim"
    )
