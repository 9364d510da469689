"""`saescope eval`: coders measured on text that did not train them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from saescope.errors import SaescopeError

if TYPE_CHECKING:
    from saescope.evaluation import Convention, Part, PartKind

_EXAMPLE = "Example: saescope eval runs/first/coder --corpus demo --out runs/first/eval"


def register(app: typer.Typer) -> None:
    app.command("eval", epilog=_EXAMPLE)(evaluate)


def _list_parts(value: bool) -> None:
    if value:
        from saescope.cli.tables import parts_listed

        Console(highlight=False).print(parts_listed())
        raise typer.Exit


def evaluate(
    coders: Annotated[list[str], typer.Argument(metavar="CODER...", help="Folders of saved coders.")],
    corpus: Annotated[
        str, typer.Option(help="Demo name, file, folder, or hf:NAME. Documents that trained a coder are left out.")
    ] = "demo",
    model: Annotated[
        str | None, typer.Option(help="The model the coders read.", show_default="as the coder records")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.json and report.html.")] = None,
    tokens: Annotated[int, typer.Option(min=0, help="Tokens to measure on, spread over the text; 0 = all.")] = 65_536,
    ce_tokens: Annotated[
        int, typer.Option(min=0, help="Of these, tokens for CE and KL, which take most of the time; 0 = all.")
    ] = 32_768,
    suite: Annotated[
        str, typer.Option(help="What to measure beside the core, by commas: see --list-parts; all for everything.")
    ] = "core",
    compat: Annotated[
        str | None, typer.Option(help="Also give the numbers of other packages' formulas: saebench, saelens, or both.")
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of labelled sets for probing: CSV or JSONL with text, label, group.",
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option(min=10, help="The most examples a probing task, a letter or a class takes.")
    ] = 1000,
    cache: Annotated[
        Path | None, typer.Option(help="Keep the activations of probing and other parts here for the next command.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Take the report's contexts from this store, its training text included.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="What the model runs in; auto: bfloat16 where it is native.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    text_field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    messages_field: Annotated[str, typer.Option(help="Field or column that holds a conversation.")] = "messages",
    seed: Annotated[int, typer.Option(help="Seed of the random control and of the intervals.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print metrics.json instead of a table, no progress.")
    ] = False,
    list_parts: Annotated[
        bool, typer.Option("--list-parts", help="List what --suite takes.", is_eager=True, callback=_list_parts)
    ] = False,
) -> None:
    """Measure coders on documents that trained none of them, beside controls, and write a report."""
    from saescope import evaluation, reports
    from saescope.activations import Store
    from saescope.cli.listed import listed
    from saescope.cli.progress import stage_bar
    from saescope.cli.tables import parts_tables, results_table
    from saescope.evaluation.probing import read_labelled_sets
    from saescope.lm import LanguageModel
    from saescope.text import Corpus

    kinds = evaluation.chosen_parts(listed(suite))
    rules = [evaluation.convention(name) for name in listed(compat)]
    subjects = [evaluation.Subject.of(folder) for folder in coders]
    opened = Store.open(store) if store is not None else None
    text = Corpus.open(corpus, text_field=text_field, messages_field=messages_field)
    if tasks is not None:
        # Read again where they are measured; a mistake in them is not worth a run of the model.
        read_labelled_sets(tasks)
    if out is not None:
        # After what is given has been read: a wrong path leaves no folder behind.
        reports.claim(out)
    lm = LanguageModel.load(model or subjects[0].model_spec(), dtype=dtype, device=device)
    with stage_bar(silent=as_json) as progress:
        found = evaluation.evaluate(
            subjects, lm, text, max_tokens=tokens or None, ce_tokens=ce_tokens or None, seed=seed, progress=progress
        )
        if out is not None and (opened is not None or kinds or rules):
            # What follows takes long and may fail, and this stays.
            reports.write_report(found, out, lm.tokenizer)
        if opened is not None:
            found = evaluation.contexts_from_store(found, subjects, opened, progress, device=lm.device)
        if kinds or rules:
            setting = evaluation.Setting(
                lm,
                text,
                evaluation.ActivationCache(lm, cache),
                tasks=tasks,
                examples=examples,
                seed=seed,
                densities=tuple(one.density for one in found),
                progress=progress,
            )

            def measured(what: PartKind | Convention) -> list[Part]:
                if isinstance(what, evaluation.PartKind):
                    return [part for (part,) in evaluation.measure_parts([what], subjects, setting)]
                return evaluation.measure_as(what, subjects, setting, ce_tokens or None)

            wanted: list[PartKind | Convention] = [*kinds, *rules]
            of_parts = [_or_absent(what, measured, len(found)) for what in wanted]
            found = [one.with_parts(list(parts)) for one, parts in zip(found, zip(*of_parts, strict=True), strict=True)]
    report = reports.write_report(found, out, lm.tokenizer) if out is not None else None
    if as_json:
        typer.echo(json.dumps(evaluation.record(found), indent=1, allow_nan=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(results_table(found))
    if kinds or rules:
        console.print(parts_tables(found))
    if report is None:
        console.print("Nothing was written; --out DIR keeps these numbers and makes a report.")
    else:
        console.print(
            f"Every number is in {report.with_name(reports.METRICS_FILE)}; open {report} in a browser.", markup=False
        )


def _or_absent(
    what: PartKind | Convention, measured: Callable[[PartKind | Convention], list[Part]], n_coders: int
) -> list[Part]:
    """A part for each coder, or why there is none: one that cannot be measured does not take the others along."""
    try:
        return measured(what)
    except SaescopeError as error:
        from saescope.evaluation import Part

        return [Part(what.name, what.title, absent=str(error))] * n_coders
