"""`saescope serve`: the explorer of a folder's indexes, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_EXAMPLE = "Example: saescope serve runs --port 8321"


def register(app: typer.Typer) -> None:
    app.command("serve", epilog=_EXAMPLE)(serve)


def serve(
    workspace: Annotated[
        Path, typer.Argument(help="A folder with feature indexes in it or below it, or one index.")
    ] = Path("."),
    host: Annotated[
        str, typer.Option(help="The address to listen on; one that others can reach needs --token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port.", show_default="8321, or the next that is free"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model for prompts and steering.", show_default="as the first index records")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Ask everyone for this; it is in the address that is printed.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the explorer of the feature indexes in a folder, until Ctrl-C."""
    from saescope.server.address import Address

    address = Address.bound(host, port, token)
    from saescope.server.serving import serve_until_stopped
    from saescope.server.workspace import Workspace

    opened = Workspace(workspace)
    console = Console(highlight=False, soft_wrap=True)
    for problem in opened.problems.values():
        console.print(f"left out: {problem}", markup=False)

    def ready() -> None:
        n = len(opened.coders)
        console.print(f"{n} coder{'s' if n != 1 else ''} at {address.url}  (Ctrl-C ends)", markup=False)
        if open_page:
            typer.launch(address.url)

    serve_until_stopped(opened, address, model=model, ready=ready)
