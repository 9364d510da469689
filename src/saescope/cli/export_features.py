"""`saescope export-features`: features of an index as files for other tools, or as a page to send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from saescope.cli.listed import whole_numbers
from saescope.cli.progress import stage_bar
from saescope.errors import UsageError, nearest

if TYPE_CHECKING:
    from saescope.coders import SparseCoder
    from saescope.features import FeatureIndex
    from saescope.features.exports import ExportedLabel
    from saescope.server.people import Additions

_EXAMPLE = "Example: saescope export-features run/coder/index --to html --features 12,904 --out features"
FORMATS = {
    "neuronpedia": "the files of Neuronpedia's bulk import",
    "html": "one page that loads nothing: features.html",
    "parquet": "two tables: features.parquet and examples.parquet",
}
# Features on a page where none are named.
_ON_A_PAGE = 24


def register(app: typer.Typer) -> None:
    app.command("export-features", epilog=_EXAMPLE)(export_features)


def export_features(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of a feature index.")],
    to: Annotated[str, typer.Option("--to", help="neuronpedia, html or parquet.")],
    out: Annotated[Path, typer.Option(help="Folder to write; what is written must not be there yet.")],
    features: Annotated[
        str | None,
        typer.Option(
            help="Features, comma-separated.",
            show_default="all that fire; for html 24, spread over how often they fire",
        ),
    ] = None,
    in_list: Annotated[str | None, typer.Option("--list", help="The features of a list made in the explorer.")] = None,
    starred: Annotated[bool, typer.Option("--starred", help="The features starred in the explorer.")] = False,
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Folder that the explorer was opened on, for people's labels and lists.",
            show_default="the nearest above INDEX that has any",
        ),
    ] = None,
    model_id: Annotated[
        str | None, typer.Option(help="Neuronpedia's name for the model.", show_default="as the index records")
    ] = None,
    source_set: Annotated[
        str | None, typer.Option(help="Neuronpedia's name for the set of coders.", show_default="the coder's name")
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="With histograms of logits for Neuronpedia, which load the model.")
    ] = False,
) -> None:
    """Write features of an index for other tools. Nothing half-written is ever left."""
    from saescope.features import FeatureIndex

    if to not in FORMATS:
        raise UsageError(f"--to {to!r} is not a format{nearest(to, FORMATS)}; there are {', '.join(FORMATS)}")
    if to != "neuronpedia" and (model_id or source_set or logits):
        raise UsageError("--model-id, --source-set and --logits go with --to neuronpedia")
    opened = FeatureIndex.open(index)
    labels, additions = _labels(opened, workspace)
    chosen = _chosen(features, in_list, additions, starred=starred)
    console = Console(highlight=False, soft_wrap=True)
    if to == "html":
        written, n = _html(opened, chosen, out, labels)
    elif to == "parquet":
        written, n = _parquet(opened, chosen, out, labels)
    else:
        written, n = _neuronpedia(opened, chosen, out, labels, model_id, source_set, logits=logits, console=console)
    console.print(f"{n:,} features of {escape(opened.manifest.coder.name)}: {FORMATS[to]}, in {escape(str(written))}")


def _html(
    index: FeatureIndex, chosen: list[int] | None, out: Path, labels: dict[int, ExportedLabel]
) -> tuple[Path, int]:
    import torch

    from saescope.errors import OccupiedError, SaescopeError
    from saescope.features import spread_over_densities
    from saescope.features.exports import chosen_features
    from saescope.reports.features import write_features_page

    if chosen is None:
        chosen = spread_over_densities(torch.from_numpy(index.density), _ON_A_PAGE)
    path = out / "features.html"
    if path.exists():
        raise OccupiedError(f"{path} is there already; choose another --out, or remove it")
    chosen = chosen_features(index, chosen)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaescopeError(f"cannot make {out}: {error.strerror or error}; choose another --out") from None
    return write_features_page(index, path, chosen, labels), len(chosen)


def _parquet(
    index: FeatureIndex, chosen: list[int] | None, out: Path, labels: dict[int, ExportedLabel]
) -> tuple[Path, int]:
    from saescope.features.exports import chosen_features, write_parquet

    with stage_bar() as tell:
        written = write_parquet(index, out, chosen, labels=labels, told=lambda done, total: tell("export", done, total))
    return written, len(chosen_features(index, chosen))


def _neuronpedia(
    index: FeatureIndex,
    chosen: list[int] | None,
    out: Path,
    labels: dict[int, ExportedLabel],
    model_id: str | None,
    source_set: str | None,
    *,
    logits: bool,
    console: Console,
) -> tuple[Path, int]:
    from saescope.features.exports import NeuronpediaSource, chosen_features, write_neuronpedia
    from saescope.lm import LanguageModel

    source = NeuronpediaSource.of(index, model=model_id, source_set=source_set)
    n = len(chosen_features(index, chosen))
    coder = _coder(index)
    if coder is None:
        console.print("left out: vectors, for the indexed coder is not where the index records it")
    if logits and coder is None:
        raise UsageError("--logits takes the coder, which is not where the index records it")
    lm = LanguageModel.load(str(index.manifest.model.get("spec", ""))) if logits else None
    with stage_bar() as tell:
        written = write_neuronpedia(
            index,
            out,
            chosen,
            source=source,
            labels=labels,
            coder=coder,
            lm=lm,
            told=lambda done, total: tell("export", done, total),
        )
    return written, n


@dataclass(frozen=True)
class _PersonsLabel:
    text: str
    kind: str = "person"
    score: float | None = None


def _labels(index: FeatureIndex, workspace: Path | None) -> tuple[dict[int, ExportedLabel], Additions | None]:
    """Every label, a person's before an automatic one, and what people have added; None where nobody has."""
    from saescope.features.labels import read_labels
    from saescope.server.people import FILE, People

    found = read_labels(index)
    labels: dict[int, ExportedLabel] = {} if found is None else dict(found.by_feature)
    if workspace is not None and not (workspace / FILE).exists():
        raise UsageError(f"{workspace} has no {FILE}: the explorer was not opened on it, or nobody added anything")
    for place in [workspace] if workspace else [index.path.resolve(), *index.path.resolve().parents]:
        if not (place / FILE).exists():
            continue
        people = People(place)
        try:
            additions = people.additions(index.manifest.coder.fingerprint)
        finally:
            people.close()
        # Every folder that the explorer was opened on has a file, also where nobody added anything.
        if additions.labels or additions.starred or additions.lists:
            own = {feature: _PersonsLabel(text) for feature, text in additions.labels.items()}
            return labels | own, additions
    return labels, None


def _chosen(
    features: str | None, in_list: str | None, additions: Additions | None, *, starred: bool
) -> list[int] | None:
    """The features asked for in any way, None where none are."""
    if features is None and in_list is None and not starred:
        return None
    chosen = whole_numbers("--features", features)
    if in_list is not None:
        lists = {} if additions is None else additions.lists
        if in_list not in lists:
            there = f"; there are {', '.join(lists)}" if lists else "; there are none"
            raise UsageError(f"there is no list {in_list!r} of this coder{nearest(in_list, lists) or there}")
        chosen += lists[in_list]
    if starred:
        if additions is None or not additions.starred:
            raise UsageError("no feature of this coder is starred")
        chosen += additions.starred
    return chosen


def _coder(index: FeatureIndex) -> SparseCoder | None:
    """The indexed coder, None where its folder is gone or holds another."""
    from saescope import coders
    from saescope.errors import SaescopeError
    from saescope.features.index import coder_fingerprint

    if index.coder_path is None:
        return None
    try:
        found = coders.load(str(index.coder_path))
    except SaescopeError:
        return None
    return found if coder_fingerprint(found) == index.manifest.coder.fingerprint else None
