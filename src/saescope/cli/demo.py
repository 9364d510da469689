"""`saescope demo`: the whole way on a real model and real text."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from saescope.demo import DemoResult
    from saescope.training import Watcher


def register(app: typer.Typer) -> None:
    app.command("demo", epilog="Example: saescope demo --out demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for all that is made.")] = Path("demo"),
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of text to harvest.")] = 400_000,
    passes: Annotated[float, typer.Option("--passes", help="Passes over the training rows.")] = 3,
    d_sae: Annotated[int, typer.Option("--d-sae", help="Latents of each coder.")] = 9216,
    l0: Annotated[float, typer.Option("--l0", "--k", help="Active latents per token.")] = 32,
    eval_tokens: Annotated[int, typer.Option("--eval-tokens", help="Held-out tokens to measure on.")] = 40_000,
    ce_tokens: Annotated[int, typer.Option("--ce-tokens", help="Of these, tokens for CE and KL.")] = 16_000,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Open the explorer at the end; --no-serve for scripts.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines, without progress.")] = False,
) -> None:
    """Fetch a model and text, harvest activations, train two sparse autoencoders, measure them, index and label what their
    features mean, and open the explorer. Under 15 minutes on two cores. The same command goes on where it was interrupted."""
    from saescope.demo import DemoOptions, run

    options = DemoOptions(
        out=out, tokens=tokens, passes=passes, d_sae=d_sae, l0=l0, eval_tokens=eval_tokens, ce_tokens=ce_tokens
    )
    with ExitStack() as stack:
        result = run(options, _Shown(stack, silent=as_json))
    if as_json:
        print(json.dumps(_summary(result)))
        return
    _tell(result)
    if serve:
        from saescope.cli.serve import serve as open_explorer

        open_explorer(out)


class _Shown:
    """Stages as headlines, bars within."""

    def __init__(self, stack: ExitStack, *, silent: bool) -> None:
        from saescope.cli.progress import quiet

        self._outer, self._silent = stack, silent or quiet()
        self._stage = stack.enter_context(ExitStack())
        self._console = Console(stderr=True, highlight=False)

    def stage(self, number: int, of: int, title: str) -> None:
        self._stage.close()
        self._stage = self._outer.enter_context(ExitStack())
        if not self._silent:
            self._console.print(f"[bold]{number}/{of} {title}[/]")

    def harvest(self) -> Callable[[Any], None]:
        from saescope.cli.progress import harvest_bar

        return self._stage.enter_context(harvest_bar(silent=self._silent))

    def training(self) -> Watcher:
        from saescope.cli.progress import training_bar

        return self._stage.enter_context(training_bar(silent=self._silent))

    def evaluation(self) -> Callable[[str, int, int], None]:
        from saescope.cli.progress import stage_bar

        return self._stage.enter_context(stage_bar(silent=self._silent))

    indexing = evaluation


def _summary(result: DemoResult) -> dict[str, Any]:
    from saescope.evaluation import record

    return {
        "store": str(result.store),
        "coders": {name: str(path) for name, path in result.coders.items()},
        "report": str(result.report),
        "metrics": str(result.metrics),
        "indexes": {name: str(path) for name, path in result.indexes.items()},
        "seconds": result.seconds,
        "evaluations": record(result.evaluations),
    }


def _tell(result: DemoResult) -> None:
    from saescope.cli.tables import metrics_table

    console = Console(highlight=False, soft_wrap=True)
    console.print(metrics_table(result.evaluations))
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result.seconds.items())
    console.print(f"Done ({spent}).\n")
    first = next(iter(result.coders.values()))
    for heading, line in (
        ("What was made", f"{result.store}: activations of every kept token"),
        ("", f"{', '.join(map(str, result.coders.values()))}: the coders"),
        ("", f"{result.metrics}: every number"),
        ("", f"{', '.join(map(str, result.indexes.values()))}: who fires where, with labels"),
        ("Look at it", f"saescope serve {result.store.parent}    the explorer"),
        ("", f"open {result.report} in a browser    the numbers, with their controls"),
        ("Next", f"saescope eval {first} --corpus FILE.txt --out my-eval    measure it on your own text"),
        ("", f"saescope train {result.store} --arch matryoshka --d-sae 4096 --l0 16 --out my-run    train another"),
    ):
        console.print(f"[bold]{heading}[/]{' ' * (16 - len(heading))}{escape(line)}")
