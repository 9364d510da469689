"""`saescope fetch`: the demo's models and text, into the cache."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from saescope import assets


def register(app: typer.Typer) -> None:
    app.command("fetch", epilog="Example: saescope fetch smollm2 demo")(fetch)


def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"What to fetch: {', '.join(assets.names())}. Default: smollm2 demo.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object of paths, without progress.")] = False,
) -> None:
    """Download the demo's models and text, check them, and make them ready in the cache."""
    wanted = names or ["smollm2", "demo"]
    for name in wanted:
        assets.lookup(name)
    paths = {name: str(assets.fetch(name, progress=not as_json)) for name in wanted}
    if as_json:
        typer.echo(json.dumps(paths, indent=1))
        return
    console = Console(soft_wrap=True)
    for name, path in paths.items():
        console.print(f"[bold]{name}[/bold] is ready in {escape(path)}")
