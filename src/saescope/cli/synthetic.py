"""`saescope synthetic`: coders trained on activations whose features are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saescope.cli.listed import listed, numbers, pairs, whole_numbers

_EXAMPLE = "Example: saescope synthetic --preset small --arch batchtopk,matryoshka --tokens 2000000 --out known"


def register(app: typer.Typer) -> None:
    app.command("synthetic", epilog=_EXAMPLE)(synthetic)


def synthetic(
    out: Annotated[Path, typer.Option("--out", help="The trial's folder. The same command continues it.")],
    preset: Annotated[str, typer.Option("--preset", help="toy, small, or 16k (SynthSAEBench-16k's shape).")] = "small",
    arch: Annotated[str, typer.Option("--arch", help="Architectures, comma-separated.")] = "batchtopk,matryoshka",
    l0: Annotated[
        str | None,
        typer.Option(
            "--l0", "--k", help="Active latents per row; comma-separated.", show_default="the preset's: 1, 8, 25"
        ),
    ] = None,
    d_sae: Annotated[
        int | None, typer.Option("--d-sae", min=2, help="Latents.", show_default="the preset's: 64, 256, 4096")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Rows to train on.")] = 2_000_000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows per step.")] = 1024,
    seeds: Annotated[str, typer.Option("--seeds", help="Of weights and rows; comma-separated, a run each.")] = "0,1,2",
    lr: Annotated[
        float | None, typer.Option("--lr", help="Peak learning rate.", show_default="from the run's length")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other training setting, NAME=VALUE, e.g. betas=[0,0.999].")
    ] = None,
    measured: Annotated[int, typer.Option("--measure", min=1, help="Rows to measure on.")] = 131_072,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print synthetic.json, without progress.")] = False,
) -> None:
    """Train coders on activations built from known features, and measure which features they found.

    Beside them an oracle, who knows the features, and random directions, which is chance.
    """
    from saescope.cli.progress import stage_bar, training_bar
    from saescope.evaluation import synthetic as known
    from saescope.lm import resolve_device

    chosen = known.preset(preset)
    request = known.TrialRequest.from_data(
        synthetic=chosen.config,
        archs=listed(arch),
        l0s=numbers("--l0", l0) or [chosen.l0],
        d_sae=d_sae or chosen.d_sae,
        tokens=tokens,
        batch_size=batch_size,
        seeds=whole_numbers("--seeds", seeds),
        lr=lr,
        settings=pairs("--set", setting),
        measured=measured,
    )
    record = known.trial(
        request,
        out,
        device=resolve_device(device),
        watching=lambda: training_bar(silent=as_json),
        measuring=lambda: stage_bar(silent=as_json),
    )
    if as_json:
        typer.echo(json.dumps(record, indent=1, allow_nan=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(record))
    console.print(
        f"Every number is in {out / known.RESULT}; the coders are in {out / 'seed-*' / 'coders'}.", markup=False
    )


# A column each, in eighty characters.
_SHOWN = {"f1": "F1", "mcc": "MCC", "uniqueness": "unique", "explained_variance": "EV", "l0": "L0"}


def _table(record: dict[str, Any]) -> Table:
    """Each kind of coder, mean over seeds with 95 % intervals, between the oracle and chance. again: latents that other
    seeds found again."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in (*_SHOWN.values(), "again"):
        table.add_column(heading, justify="right", no_wrap=True)
    controls = dict(record["controls"])
    table.add_row("[dim]oracle[/]", *_cells(controls.pop("oracle")))
    for kind in record["by_arch"]:
        # Lacks with one seed, and holds no number where a coder of a seed has died.
        stable = kind.get("stability")
        stable = None if stable is None or "absent" in stable else stable
        table.add_row(
            f"[bold]{escape(kind['name'])}[/]",
            *_cells(kind["mean"]),
            "" if stable is None else f"{stable['share']:.1%}",
        )
        # An L0 that is settled hardly varies.
        ranges = [None if key == "l0" else kind["intervals"][key] for key in _SHOWN]
        between = ["" if found is None else f"{found[0]:.2f}–{found[1]:.2f}" for found in ranges]
        again = None if stable is None else stable["intervals"]["share"]
        between.append("" if again is None else f"{again[0]:.0%}–{again[1]:.0%}")
        if any(between):
            table.add_row("", *(f"[dim]{cell}[/]" for cell in between))
    for name, control in controls.items():
        table.add_row(f"[dim]{escape(name)}[/]", *_cells(control))
    return table


def _cells(metrics: dict[str, float | None]) -> list[str]:
    return ["–" if metrics[key] is None else f"{metrics[key]:.{1 if key == 'l0' else 3}f}" for key in _SHOWN]
