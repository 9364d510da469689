"""`saescope harvest`: a model's activations on a text, into a store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from saescope.cli.progress import harvest_bar

if TYPE_CHECKING:
    from saescope.activations import Store
    from saescope.text import SequenceOptions

_EXAMPLE = "Example: saescope harvest --model smollm2 --corpus demo --points resid_post.14 --tokens 400000 --out store"


def register(app: typer.Typer) -> None:
    app.command("harvest", epilog=_EXAMPLE)(harvest)


def harvest(
    model: Annotated[str, typer.Option(help="Demo name, hub id, folder or .gguf file.")],
    corpus: Annotated[str, typer.Option(help="Demo name, file, folder, or hf:NAME[:CONFIG[:SPLIT]].")],
    points: Annotated[
        str,
        typer.Option(
            help="Hook points: resid_post.14,mlp_out.14; resid_post.* for all layers, resid_post.0-29:2 for some."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder of the store, or an fsspec URL such as s3://bucket/store.")],
    tokens: Annotated[int, typer.Option(help="Tokens to run the model on, held-out text included.")] = 1_000_000,
    context: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 256,
    packed: Annotated[
        bool, typer.Option("--packed/--one-per-document", help="Fill sequences, or start one with every document.")
    ] = True,
    bos: Annotated[str, typer.Option(help="Begin sequences with BOS: auto (as the tokenizer does), always, never.")] = (
        "auto"
    ),
    chat: Annotated[bool, typer.Option("--chat", help="Render conversations with the chat template.")] = False,
    held_out: Annotated[float, typer.Option(help="Share of documents kept from training.")] = 0.1,
    text_field: Annotated[str, typer.Option(help="Field or column that holds the text.")] = "text",
    messages_field: Annotated[str, typer.Option(help="Field or column that holds a conversation.")] = "messages",
    store_dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32 on disk.")] = "bfloat16",
    dtype: Annotated[str, typer.Option(help="What the model runs in; auto: bfloat16 where it is native.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="Tokens in a forward batch.")] = 4096,
    shard_tokens: Annotated[
        int | None, typer.Option(help="Tokens in a shard, the unit of resuming.", show_default="65536 or 256 MiB")
    ] = None,
    sink_ratio: Annotated[float, typer.Option(help="Leave out positions with norms beyond this many medians.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines, without progress.")] = False,
) -> None:
    """Run a model over text and store its activations.

    Says what it will cost before it starts. The same command goes on with an interrupted harvest and leaves a complete
    one as it is.
    """
    from saescope import activations
    from saescope.lm import LanguageModel
    from saescope.text import Corpus

    options = _sequence_options(context=context, packed=packed, bos=bos, chat=chat, held_out=held_out)
    text = Corpus.open(corpus, text_field=text_field, messages_field=messages_field)
    lm = LanguageModel.load(model, dtype=dtype, device=device)
    with harvest_bar(silent=as_json) as shown:
        store = activations.harvest(
            lm,
            text,
            points,
            out,
            tokens=tokens,
            options=options,
            batch_tokens=batch_tokens,
            shard_tokens=shard_tokens,
            store_dtype=store_dtype,
            sink_ratio=sink_ratio,
            progress=shown,
        )
    if as_json:
        typer.echo(json.dumps(_summary(store), indent=1))
    else:
        _print_summary(store, already=not shown.started)


def _sequence_options(**given: Any) -> SequenceOptions:
    from pydantic import ValidationError

    from saescope.errors import UsageError
    from saescope.text import SequenceOptions

    try:
        return SequenceOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{name} {first['input']!r}: {first['msg']}") from error


def _summary(store: Store) -> dict[str, Any]:
    manifest = store.manifest
    return {
        "store": store.path,
        "points": store.widths,
        "rows": store.n_rows,
        "shards": store.n_shards,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "counts": {split: counts.model_dump() for split, counts in manifest.counts.items()},
        "corpus_ended": manifest.corpus_ended,
        "documents": len(store.documents),
    }


def _print_summary(store: Store, *, already: bool) -> None:
    from saescope.activations import readable_bytes
    from saescope.lm import condensed

    console = Console(soft_wrap=True, highlight=False)
    summary, counts = _summary(store), store.manifest.counts
    tokens = sum(split.tokens for split in counts.values())
    special = sum(split.special for split in counts.values())
    sinks = sum(split.sink_any for split in counts.values())
    if already:
        console.print(f"{store.path} was complete already; nothing to do.", markup=False)
    console.print(
        f"[bold]{escape(str(store.path))}[/bold]: {store.n_rows:,} rows of {condensed(store.points)} "
        f"({counts['train'].rows:,} to train on, {counts['held_out'].rows:,} held out), "
        f"{store.n_shards} shards, {readable_bytes(summary['bytes'])}"
    )
    console.print(f"left out: {special:,} special tokens, {sinks:,} attention sinks of {tokens:,} tokens")
    if store.manifest.corpus_ended:
        console.print(f"the text ended before the {store.manifest.request.tokens:,} tokens asked for")
    console.print(f"next: saescope train {store.path} --arch batchtopk --d-sae 9216 --l0 32 --out run", markup=False)
