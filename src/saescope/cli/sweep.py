"""`saescope sweep`: a grid of coders trained on shared batches, measured, and drawn against L0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from saescope.cli.listed import listed, numbers, pairs, whole_numbers
from saescope.errors import UsageError

if TYPE_CHECKING:
    from saescope.lm import PointNames

_EXAMPLE = "Example: saescope sweep acts --arch topk,batchtopk --l0 8,16,32,64 --seeds 0,1,2 --out sweeps/first"


def register(app: typer.Typer) -> None:
    app.command("sweep", epilog=_EXAMPLE)(sweep)


def sweep(
    store: Annotated[str, typer.Argument(help="An activation store.")],
    out: Annotated[Path, typer.Option("--out", help="The sweep's folder. The same command goes on with it.")],
    arch: Annotated[str, typer.Option("--arch", help="Architectures, comma-separated.")] = "batchtopk",
    l0: Annotated[
        str, typer.Option("--l0", "--k", help="Wanted active latents per token, comma-separated.")
    ] = "8,16,32,64,128",
    d_sae: Annotated[str, typer.Option("--d-sae", help="Latents, comma-separated.")] = "9216",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of the weights, comma-separated.")] = "0",
    frozen_decoder: Annotated[
        bool, typer.Option("--frozen-decoder", help="Train the control with a random, frozen decoder as well.")
    ] = False,
    reads: Annotated[
        str, typer.Option("--reads", help="Hook point read; a+b: several.", show_default="the store's one")
    ] = "",
    writes: Annotated[str, typer.Option("--writes", help="Hook point written (transcoders).")] = "",
    skip: Annotated[bool, typer.Option("--skip", help="Add a linear skip connection (skip transcoder).")] = False,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="An architecture's option, ARCH.NAME=VALUE, e.g. standard.p=0.5."),
    ] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    passes: Annotated[float, typer.Option("--passes", help="Passes over the training rows.")] = 1,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Tokens per step.", show_default="512 to 4096")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other setting of the runs, NAME=VALUE, e.g. aux_coefficient=0."),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="Parts measured beside the core; see saescope eval --list-parts.")
    ] = "core",
    tasks: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of labelled sets for probing.")
    ] = None,
    examples: Annotated[
        int, typer.Option(min=10, help="The most examples a probing task, a letter or a class takes.")
    ] = 1000,
    cache: Annotated[Path | None, typer.Option(help="Keep activations here.", show_default="OUT/activations")] = None,
    corpus: Annotated[
        str, typer.Option(help="Demo name, file, folder, or hf:NAME. Documents that trained a coder are left out.")
    ] = "demo",
    tokens: Annotated[int, typer.Option(min=0, help="Tokens to measure on; 0 = all.")] = 65_536,
    ce_tokens: Annotated[int, typer.Option(min=0, help="Of these, tokens for CE and KL; 0 = all.")] = 8_192,
    memory: Annotated[
        str, typer.Option("--memory", help="For weights and optimiser of coders trained together.")
    ] = "6GiB",
    model: Annotated[str | None, typer.Option(help="The model.", show_default="the store's")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Order of the batches; seed of controls and intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print every record as JSON, without progress.")] = False,
) -> None:
    """Train a grid of coders, measure all, and write frontier.html, .png and .csv. Finished coders are not done again."""
    from saescope import evaluation, reports
    from saescope.activations import Store, StoreStream, parse_bytes
    from saescope.cli.progress import stage_bar
    from saescope.evaluation.probing import read_labelled_sets
    from saescope.evaluation.sweep import Sources, SweepConfig
    from saescope.evaluation.sweep import sweep as run
    from saescope.lm import LanguageModel, resolve_device
    from saescope.text import Corpus
    from saescope.training import TrainConfig, Watcher, batch_size_for

    room = parse_bytes(memory)
    kinds = evaluation.chosen_parts(listed(suite))
    opened = Store.open(store)
    reading = _one_group("--reads", reads or ",".join(opened.point_names.names), opened.point_names)
    writing = _one_group("--writes", writes, opened.point_names) if writes else ()
    rows = sum(opened.shard_rows("train"))
    run_settings: dict[str, Any] = {"passes": passes, "seed": seed} | pairs("--set", setting)
    run_settings["batch_size"] = batch_size_for(rows * passes) if batch_size is None else batch_size
    config = SweepConfig.from_data(
        archs=tuple(listed(arch)),
        l0s=tuple(numbers("--l0", l0)),
        d_saes=tuple(whole_numbers("--d-sae", d_sae)),
        seeds=tuple(whole_numbers("--seeds", seeds)),
        frozen_decoder=frozen_decoder,
        options=_by_architecture(option),
        reads=reading,
        writes=writing,
        skip=skip,
        lr=lr,
        run=run_settings,
        parts=tuple(kind.name for kind in kinds),
        tokens=tokens or None,
        ce_tokens=ce_tokens or None,
        examples=examples,
    )
    if tasks is not None:
        # A mistake in them is to be heard of before hours of training.
        read_labelled_sets(tasks)
    lm = LanguageModel.load(model or str(opened.provenance()["model"]["spec"]), device=device)
    text = Corpus.open(corpus)

    def source(training: TrainConfig) -> StoreStream:
        return StoreStream(
            opened, training.points, batch_size=training.batch_size, seed=training.seed, passes=training.passes
        )

    console = Console(highlight=False, soft_wrap=True)
    sources = Sources(source, opened.widths, {"store": opened.fingerprint})
    with stage_bar(silent=as_json) as progress:
        kept = evaluation.ActivationCache(lm, cache or out / "activations")
        setting_of = evaluation.Setting(lm, text, kept, tasks=tasks, examples=examples, seed=seed, progress=progress)

        def watcher() -> Watcher:
            return lambda now: progress("train", now.step, now.n_steps)

        def told(record: dict[str, Any]) -> None:
            if not as_json:
                coder = record["coder"]
                console.print(f"{record['cell']['name']}: L0 {coder['l0']:.1f}, FVU {coder['fvu_centered']:.3f}")

        records = run(
            config,
            sources,
            setting_of,
            out,
            memory=room,
            device=str(resolve_device(device)),
            watcher=watcher,
            told=told,
        )
    made = reports.write_frontier(records, out)
    if as_json:
        print(json.dumps(records, allow_nan=False))
        return
    console.print(
        f"{len(records)} coders. Open {made[0]} in a browser; every number is in {out / 'frontier.csv'}.", markup=False
    )
    if len(made) < 3:
        console.print(
            "frontier.png needs matplotlib: pip install 'saescope[plots]', then the same command.", markup=False
        )


def _one_group(flag: str, expression: str, available: PointNames) -> tuple[str, ...]:
    groups = available.groups(expression)
    if len(groups) != 1:
        raise UsageError(
            f"a sweep is of one place, and {flag} names {len(groups)}: {expression}; name one, or join them with +"
        )
    return groups[0]


def _by_architecture(given: list[str] | None) -> dict[str, dict[str, Any]]:
    """ARCH.NAME=VALUE as options by architecture."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs("--option", given).items():
        arch, dot, name = key.partition(".")
        if not dot:
            raise UsageError(f"--option of a sweep takes ARCH.NAME=VALUE, got {key!r}")
        found.setdefault(arch, {})[name] = value
    return found
