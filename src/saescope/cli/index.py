"""`saescope index`: what every feature of a coder fires on, for the explorer and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from saescope.coders import SparseCoder
    from saescope.features import StoreSource, TextSource
    from saescope.lm import LanguageModel

_EXAMPLE = "Example: saescope index run/coder --store store"


def register(app: typer.Typer) -> None:
    app.command("index", epilog=_EXAMPLE)(index)


def index(
    coder: Annotated[str, typer.Argument(metavar="CODER", help="Folder of a saved coder.")],
    store: Annotated[
        Path | None, typer.Option(help="An activation store with what the coder reads; the model is not run.")
    ] = None,
    corpus: Annotated[
        str, typer.Option(help="Without a store: demo name, file, folder, or hf:NAME, run through the model.")
    ] = "demo",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the corpus to index, without a store.")] = 400_000,
    model: Annotated[
        str | None, typer.Option(help="The model the coder reads.", show_default="as the coder records")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the index.", show_default="index, in the coder's folder")
    ] = None,
    memory: Annotated[str, typer.Option(help="What turning codes from tokens to features may take.")] = "1GiB",
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Label the features, from the index alone.")
    ] = True,
) -> None:
    """Find what every feature fires on: examples, statistics, neighbours, output tokens, labels. An interrupted command goes
    on where it stopped."""
    from saescope import coders
    from saescope.activations import parse_bytes
    from saescope.cli.progress import stage_bar
    from saescope.features import build_index
    from saescope.features.naming import name_features
    from saescope.lm import resolve_device

    loaded = coders.load(coder, device=resolve_device(device))
    loaded.metadata.name = loaded.metadata.name or Path(coder).name
    where = out or Path(coder) / "index"
    source, lm = _source(loaded, store, corpus, tokens, model)
    with stage_bar() as tell:
        found = build_index(loaded, source, where, coder_path=coder, lm=lm, memory=parse_bytes(memory), progress=tell)
        if labels:
            name_features(found, tell)
    counts = found.manifest.counts
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{counts.live:,} of {found.d_sae:,} features fire on {counts.tokens:,} tokens of "
        f"{len(found.documents):,} documents."
    )
    for what, why in found.manifest.skipped.items():
        console.print(f"left out: {what}: {why}", markup=False)
    # Not the index itself: what people write is kept in the folder that is served, and an index may be built anew.
    console.print(f"The index is in {where}. Look at it: saescope serve {where.parent}", markup=False)


def _source(
    coder: SparseCoder, store: Path | None, corpus: str, tokens: int, model: str | None
) -> tuple[StoreSource | TextSource, LanguageModel | None]:
    """Where codes come from, and the model where it is at hand: output tokens need its unembedding."""
    from saescope.activations import Store
    from saescope.errors import SaescopeError
    from saescope.features import StoreSource, TextSource
    from saescope.lm import LanguageModel
    from saescope.text import Corpus

    spec, device = model or coder.metadata.model.get("spec"), coder.device
    if store is not None:
        opened = Store.open(store)
        spec = spec or opened.manifest.request.model.get("spec")
        try:
            lm = LanguageModel.load(str(spec), device=device) if spec else None
        except SaescopeError:
            if model is not None:
                raise
            # The store has all activations; only what the model's weights say will be left out.
            lm = None
        return StoreSource(coder, opened), lm
    if not spec:
        from saescope.errors import UsageError

        raise UsageError(f"coder {coder.metadata.name} does not record its model; name it with --model")
    lm = LanguageModel.load(str(spec), device=device)
    return TextSource(coder, lm, Corpus.open(corpus), tokens=tokens), lm
