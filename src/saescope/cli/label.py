"""`saescope label`: what features are about, in words, with scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saescope.cli.listed import whole_numbers
from saescope.errors import UsageError

if TYPE_CHECKING:
    from saescope.features.index import FeatureIndex
    from saescope.features.labels import LabelTable
    from saescope.features.labels.asking import Cost
    from saescope.features.labels.chat import ChatModel

_EXAMPLE = (
    "Examples: saescope label run/coder/index   |   "
    "saescope label run/coder/index --endpoint http://127.0.0.1:8000/v1 --model NAME --spread 200"
)
_SHOWN = 8


def register(app: typer.Typer) -> None:
    app.command("label", epilog=_EXAMPLE)(label)


def label(
    index: Annotated[str, typer.Argument(metavar="INDEX", help="Folder of a feature index.")],
    features: Annotated[
        str | None, typer.Option(help="Only these, comma-separated.", show_default="all that fire")
    ] = None,
    spread: Annotated[
        int | None, typer.Option(min=1, help="Only so many, spread evenly over how often features fire.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Ask a model behind an OpenAI-compatible address, such as http://127.0.0.1:8000/v1."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --endpoint: the model's name there.")] = None,
    local: Annotated[str | None, typer.Option(help="Ask a model loaded here: smollm2, a folder, a hub id.")] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Requests under way together.")] = 4,
    per_minute: Annotated[float | None, typer.Option(min=0.1, help="Most requests a minute.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for an answer.")] = 120.0,
    tried: Annotated[int, typer.Option(min=1, help="Windows of each side that a label is tried on.")] = 20,
    prompt_price: Annotated[
        float | None, typer.Option(min=0, help="Dollars a million prompt tokens, for the estimate.")
    ] = None,
    completion_price: Annotated[
        float | None, typer.Option(min=0, help="Dollars a million answer tokens, for the estimate.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what asking would cost.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask the model without asking you first.")] = False,
    split: Annotated[
        str, typer.Option(help="What labels are tried on: other sections of the text, or other documents.")
    ] = "section",
    seed: Annotated[int, typer.Option(min=0, help="Of the windows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines, without progress.")] = False,
) -> None:
    """Label features: by what sets their text apart (the default, no model), or by asking a language model.

    Every label is scored on text that it was not made from. Labels are kept in the index, one file a run; the newest counts.
    The key of an endpoint is read from SAESCOPE_API_KEY or OPENAI_API_KEY.
    """
    from saescope.cli.progress import stage_bar
    from saescope.features.index import FeatureIndex
    from saescope.features.index.progress import kept_progress
    from saescope.features.labels import contrastive_labels, write_labels

    if endpoint and local:
        raise UsageError("give --endpoint or --local, not both")
    if bool(endpoint) != bool(model):
        raise UsageError("--endpoint and --model go together")
    if (dry_run or yes) and not (endpoint or local):
        raise UsageError("--dry-run and --yes go with --endpoint or --local; labels without a model cost nothing")
    opened = FeatureIndex.open(index)
    wanted = _wanted(opened, features, spread)
    if not endpoint and not local:
        with stage_bar(silent=as_json) as bar, kept_progress(opened.path, "label", bar) as tell:
            table = contrastive_labels(opened, wanted, seed=seed, split=split, progress=tell)
    else:
        from saescope.features.labels.asking import AskingOptions, asked_labels, estimated_cost

        options = AskingOptions(tried=tried, seed=seed, split=split)
        asked = list(range(opened.d_sae)) if wanted is None else wanted
        chat = _model(endpoint, str(model), local, at_once, per_minute, timeout)
        cost = estimated_cost(
            opened, asked, options, prompt_price=prompt_price, completion_price=completion_price, model_name=chat.name
        )
        _tell_cost(cost, chat.name, as_json=as_json, dry_run=dry_run)
        if dry_run:
            return
        if cost.calls and not yes:
            _confirm()
        with stage_bar(silent=as_json) as bar, kept_progress(opened.path, "label", bar) as tell:
            table = asked_labels(opened, chat, asked, options, progress=tell)
    path = write_labels(opened, table)
    _show(table, path, as_json=as_json)


def _wanted(index: FeatureIndex, features: str | None, spread: int | None) -> list[int] | None:
    if features is not None and spread:
        raise UsageError("give --features or --spread, not both")
    if spread:
        import torch

        from saescope.features import spread_over_densities

        return spread_over_densities(torch.from_numpy(index.density), spread)
    return None if features is None else whole_numbers("--features", features)


def _model(
    endpoint: str | None, model: str, local: str | None, at_once: int, per_minute: float | None, timeout: float
) -> ChatModel:
    if endpoint:
        from saescope.features.labels.endpoint import Endpoint, Patience, key_from_environment

        patience = Patience(timeout=timeout, requests_per_minute=per_minute)
        return Endpoint(endpoint, model, key=key_from_environment(), at_once=at_once, patience=patience)
    from saescope.features.labels.chat import LocalModel
    from saescope.lm import LanguageModel

    return LocalModel(LanguageModel.load(str(local)))


def _tell_cost(cost: Cost, name: str, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        if dry_run:
            print(json.dumps(cost.__dict__))
        return
    price = "" if cost.dollars is None else f", about ${cost.dollars:,.2f}"
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"{cost.features:,} features to ask {escape(name)} about: {cost.calls:,} requests, about "
        f"{cost.prompt_tokens:,} prompt and {cost.completion_tokens:,} answer tokens{price}."
    )


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise UsageError("asking a model costs what is said above; add --yes to go on, or --dry-run to stop here")
    if not typer.confirm("Go on?"):
        raise UsageError("nothing was asked")


def _show(table: LabelTable, path: Path, *, as_json: bool) -> None:
    scored = [label for label in table.labels if label.score is not None]
    mean = sum(label.score or 0.0 for label in scored) / len(scored) if scored else None
    controls = {
        name: sum(found) / len(found)
        for name in dict.fromkeys(name for label in scored for name in label.controls)
        if (found := [label.controls[name] for label in scored if name in label.controls])
    }
    if as_json:
        summary = {"version": table.version, "kind": table.kind, "labels": len(table), "scored": len(scored)}
        print(json.dumps({**summary, "score": mean, "controls": controls, "file": str(path)}))
        return
    console = Console(highlight=False, soft_wrap=True)
    shown = Table("feature", "score", "label", box=None, padding=(0, 2, 0, 0))
    step = max(1, len(table) // _SHOWN)
    for one in table.labels[::step][:_SHOWN]:
        score = "" if one.score is None else f"{one.score:.2f}"
        shown.add_row(str(one.feature), score, escape(one.text))
    console.print(shown)
    failed, unusable = table.options.get("failed"), table.options.get("unusable")
    console.print(
        f"{len(table):,} labels, {len(scored):,} with a score"
        + ("" if mean is None else f": balanced accuracy {mean:.3f} on text they were not made from")
        + "".join(f"; {name.replace('_', ' ')} {value:.3f}" for name, value in controls.items())
        + (f". {failed:,} features failed; the same command asks again" if failed else "")
        + (f". Of {unusable:,} the model or its judge said nothing usable" if unusable else "")
        + "."
    )
    console.print(f"Kept in {escape(str(path))}.")
