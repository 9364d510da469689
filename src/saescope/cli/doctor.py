"""`saescope doctor`."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(as_json: bool = typer.Option(False, "--json", help="Print JSON for machines.")) -> None:
    """Show versions, device, kernels, cache and disk, what to install, and how long the demo will take here.

    Example: saescope doctor
    """
    from saescope.doctor import diagnose

    found = diagnose()
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = {
        "saescope": f"{found.saescope}, Python {found.python}, {found.system}",
        "packages": ", ".join(f"{name} {number}" for name, number in found.packages.items()),
        "device": f"{found.device}, {found.threads} threads of {found.cores} cores, {found.memory / 2**30:.1f} GiB memory",
        "bfloat16": "native" if found.native_bf16 else "not native: float32 is used",
        "kernels": ", ".join(name if state == "here" else f"{name} ({state})" for name, state in found.kernels.items()),
        "extras": ", ".join(
            f"{name} {'installed' if here else 'not installed'}" for name, here in found.extras.items()
        ),
        "cache": f"{found.cache} ({', '.join(found.cached) or 'empty'})",
        "free disk": f"{found.free_disk / 2**30:.1f} GiB",
        "speed": f"{found.matmul_flops / 1e9:.0f} GFLOP/s in the encoder's product",
        "demo": f"about {found.demo_seconds / 60:.0f} minutes here, without the download",
    }
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    console = Console(highlight=False)
    console.print(table)
    for line in found.advice:
        console.print(f"  - {line}", markup=False)
