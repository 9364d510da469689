"""`saescope bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saescope.cli.listed import listed
from saescope.errors import UsageError

if TYPE_CHECKING:
    from saescope.bench import StepTimes, TextTimes


def register(app: typer.Typer) -> None:
    app.command("bench")(bench)


def bench(
    arch: str = typer.Option("batchtopk", "--arch", help="Architectures, comma-separated."),
    d_in: int = typer.Option(576, "--d-in", min=1, help="Width of the activations."),
    d_sae: int = typer.Option(9216, "--d-sae", min=1, help="Number of latents."),
    l0: int = typer.Option(32, "--l0", "--k", min=1, help="Active latents per token."),
    batch_size: int = typer.Option(4096, "--batch-size", min=1, help="Tokens a step."),
    dead: float = typer.Option(
        0.0, "--dead", min=0, max=1, help="Share of latents that count as dead (AuxK is then on)."
    ),
    pairs: int = typer.Option(9, "--pairs", min=1, help="Steps to time, each beside a bare encoder product."),
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:N or mps."),
    text: int = typer.Option(0, "--text", min=0, help="Also train from this many tokens of text, through the model."),
    model: str = typer.Option("smollm2", "--model", help="For --text."),
    corpus: str = typer.Option("demo", "--corpus", help="For --text."),
    point: str = typer.Option("resid_post.14", "--points", help="For --text: the hook point."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON for machines."),
) -> None:
    """Time training here: each operation of a step, tokens/s, and the limit, the bare encoder product.

    Example: saescope bench --arch batchtopk,jumprelu --d-sae 9216
    """
    from saescope.bench import FEWEST_TOKENS, Shape, time_steps, time_text
    from saescope.lm import LanguageModel
    from saescope.text import Corpus

    shapes = [Shape(name, d_in, d_sae, l0, batch_size, dead) for name in listed(arch)]
    if not shapes:
        raise UsageError("--arch names no architecture; give one, such as batchtopk")
    if 0 < text < FEWEST_TOKENS:
        raise UsageError(f"--text takes at least {FEWEST_TOKENS:,} tokens, got {text:,}")
    if text:
        # First of all, so that a wrong name is refused before anything is timed.
        lm, documents = LanguageModel.load(model, device=device), Corpus.open(corpus)
        lm.check_point(point)
    console = Console(highlight=False)
    results: list[StepTimes] = []
    for shape in shapes:
        # What the first leaves to the allocator would be taken from the second's memory.
        found = time_steps(shape, pairs=pairs, device=device, memory=not results)
        results.append(found)
        if not as_json:
            _show(found, console)
    texts = None
    if text:
        shape = Shape(shapes[0].arch, lm.width(point), d_sae, l0, batch_size)
        texts = time_text(lm, documents, point, tokens=text, shape=shape)
        if not as_json:
            _show_text(texts, console)
    if as_json:
        record: dict[str, Any] = {"steps": [asdict(found) for found in results]}
        if texts is not None:
            record["text"] = asdict(texts)
        print(json.dumps(record, indent=2))


def _show(found: StepTimes, console: Console) -> None:
    shape, ratios = found.shape, found.ratios
    console.print(
        f"[bold]{shape.arch}[/]: d_in {shape.d_in:,}, d_sae {shape.d_sae:,}, L0 {found.l0:.0f}, batch {shape.batch_size:,}"
        + (f", {shape.dead:.0%} dead" if shape.dead else "")
        + f"; kernels {found.kernels}, latents chosen in {found.dtype}"
    )
    table = Table(show_header=False, box=None, padding=(0, 2))
    whole = sum(found.stages.values())
    for stage, seconds in found.stages.items():
        table.add_row(stage, f"{seconds * 1e3:.1f} ms", f"{seconds / whole:.0%}")
    table.add_row("[bold]step[/] (median)", f"{found.step * 1e3:.1f} ms", f"{found.tokens_per_second:,.0f} tokens/s")
    limit = shape.batch_size / found.product
    table.add_row("[bold]limit[/]: the bare encoder product", f"{found.product * 1e3:.1f} ms", f"{limit:,.0f} tokens/s")
    table.add_row("ratio, median of pairs", f"{ratios[len(ratios) // 2]:.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}")
    if found.memory is not None:
        table.add_row("memory above weights, gradients, moments", f"{found.memory / 2**20:,.0f} MiB", "")
    console.print(table)


def _show_text(found: TextTimes, console: Console) -> None:
    console.print(f"[bold]text to coder[/]: {found.tokens:,} tokens at {escape(found.point)}")
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("the model alone", f"{found.tokens / found.alone:,.0f} tokens/s", "")
    for n_coders, seconds in found.trained.items():
        name = "1 coder" if n_coders == 1 else f"{n_coders} coders"
        table.add_row(
            name, f"{found.tokens / seconds:,.0f} tokens/s", f"{found.alone / seconds:.2f} of the model alone"
        )
    console.print(table)
