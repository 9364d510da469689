"""`saescope train`: coders from a store, or straight from a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saescope.cli.listed import listed, numbers, pairs
from saescope.errors import UsageError

if TYPE_CHECKING:
    from saescope.coders import CoderMetadata


def register(app: typer.Typer) -> None:
    app.command(
        "train",
        epilog="Example: saescope train acts --arch batchtopk --d-sae 9216 --l0 32 --passes 3 --out runs/first",
    )(train)


def train(
    store: Annotated[str | None, typer.Argument(help="An activation store; leave out to stream from --model.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The run's folder. The same command continues it.")] = Path("run"),
    config: Annotated[Path | None, typer.Option("--config", help="A YAML configuration; options override it.")] = None,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="Architectures, comma-separated; one coder each.", show_default="batchtopk"),
    ] = None,
    d_sae: Annotated[int | None, typer.Option("--d-sae", help="Latents.", show_default="9216")] = None,
    l0: Annotated[
        str | None,
        typer.Option(
            "--l0",
            "--k",
            help="Wanted active latents per token; comma-separated for several coders.",
            show_default="32",
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="An option of the architecture, NAME=VALUE, e.g. p=0.5.")
    ] = None,
    reads: Annotated[
        str | None,
        typer.Option(
            "--reads", help="Hook points read, one coder each: 'mlp_in.*'; a+b: by one coder. Default: every point."
        ),
    ] = None,
    writes: Annotated[
        str | None, typer.Option("--writes", help="Hook points written (transcoders), paired with --reads in order.")
    ] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Add a linear skip connection (skip transcoder).")] = False,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Peak learning rate.", show_default="from width and steps")
    ] = None,
    passes: Annotated[
        float | None, typer.Option("--passes", help="Passes over the training rows.", show_default="1")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Tokens per step.", show_default="512 to 4096")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights and order.", show_default="0")] = None,
    init: Annotated[Path | None, typer.Option("--init", help="Start from this saved coder.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, NAME=VALUE, e.g. aux_coefficient=0.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Without a store: the model to stream from.")] = None,
    corpus: Annotated[str | None, typer.Option("--corpus", help="Without a store: the text.")] = None,
    points: Annotated[
        str | None, typer.Option("--points", help="Train at these hook points only, such as 'resid_post.0-29:2'.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", help="Without a store: tokens of text to run.", show_default="1000000")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--context", help="Without a store: tokens per sequence.", show_default="256")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="For the rows that are shuffled together, e.g. 2GiB.",
            show_default="1GiB streaming, 4GiB of a store's pages",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    log: Annotated[str, typer.Option("--log", help="Further loggers: tensorboard, wandb.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines, without progress.")] = False,
) -> None:
    """Train sparse coders. Several (of --arch and --l0) share each batch."""
    import saescope
    from saescope.activations import ModelStream, Store, StoreStream, parse_bytes
    from saescope.cli.progress import training_bar
    from saescope.lm import PointNames, common_layer, resolve_device
    from saescope.text import Corpus, SequenceOptions
    from saescope.training import resolve
    from saescope.training import train as run

    if (store is None) == (model is None):
        raise UsageError("give a STORE to train from, or --model and --corpus to stream without one")
    if store is None and (corpus is None or not (points or reads or config)):
        raise UsageError("streaming needs --corpus, and --points or --reads, beside --model")
    for flag, value in (("--corpus", corpus), ("--tokens", tokens), ("--context", context)):
        if store is not None and value is not None:
            raise UsageError(f"{flag} is for streaming from --model; what is in the store {store} stands fast")
    tokens = 1_000_000 if tokens is None else tokens
    room = None if memory is None else parse_bytes(memory)
    settings, options = pairs("--set", setting), pairs("--option", option)
    opened = Store.open(store) if store is not None else saescope.LanguageModel.load(str(model), device=device)
    available = opened.point_names
    if points:
        available = PointNames(available.points(points), "--points")
    base = {"batch_size": batch_size, "passes": passes, "seed": seed} | settings
    coder: dict[str, Any] = {"d_sae": d_sae, "skip": skip or None, "lr": lr, "init": str(init) if init else None}
    coder["options"] = options or None
    resolved = resolve(
        config,
        base,
        coder,
        archs=listed(arch),
        l0s=numbers("--l0", l0),
        reads=reads or "",
        writes=writes or "",
        available=available,
        rows=sum(opened.shard_rows("train")) if isinstance(opened, Store) else tokens,
    )
    order: dict[str, Any] = {
        "batch_size": resolved.batch_size, "seed": resolved.seed, "passes": resolved.passes, "memory": room
    }  # fmt: skip
    source = (
        StoreStream(opened, resolved.points, **order)
        if isinstance(opened, Store)
        else ModelStream(
            opened,
            Corpus.open(str(corpus)),
            resolved.points,
            SequenceOptions(context=256 if context is None else context),
            tokens=tokens,
            **order,
        )
    )
    try:
        with training_bar(silent=as_json) as watcher:
            coders = run(resolved, source, out, device=resolve_device(device), loggers=listed(log), watcher=watcher)
    finally:
        source.close()
    in_order = sorted(coders.items(), key=lambda item: common_layer(part.point for part in item[1].writes) or 0)
    results = {name: _summary(coder.metadata) for name, coder in in_order}
    if as_json:
        print(json.dumps({"out": str(out), "coders": results}))
        return
    console = Console(highlight=False, soft_wrap=True)
    table = Table("coder", "held-out FVU", "held-out L0", "dead in training", box=None, padding=(0, 2))
    for name, found in results.items():
        table.add_row(escape(name), *(f"{found.get(key, float('nan')):.4g}" for key in _SHOWN))
    console.print(table)
    saved = out / "coder" if len(coders) == 1 else out / "coders" / "*"
    console.print(
        f"Saved in {out / 'coders'}. Next: saescope eval {saved} --corpus demo --out {out / 'eval'}", markup=False
    )


_SHOWN = ("held_out_fvu_centered", "held_out_l0", "dead")


def _summary(metadata: CoderMetadata) -> dict[str, float]:
    """The last line of the run's history, with what was measured once L0 was settled."""
    last = metadata.history[-1] if metadata.history else {}
    found: dict[str, float] = last | metadata.training.get("settled", {})
    return {key: found[key] for key in (*_SHOWN, "loss", "tokens", "seconds") if key in found}
