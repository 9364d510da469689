"""The rows of `speed_vs_peers.py --cases text`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saescope.assets import fetch
from speed_pairs import Side, WorkerError, alternate

if TYPE_CHECKING:
    from speed_vs_peers import Bench, Row

MODEL, CORPUS, CONTEXT = "smollm2", "demo", 256
TOGETHER = 8


def text(bench: Bench) -> Iterator[Row]:
    """Our streaming training beside the model's forward alone, beside SAELens's runner, and with several coders at once."""
    from speed_vs_peers import Row

    given = bench.given
    with tempfile.TemporaryDirectory() as folder:
        spec = bench.spec("topk") | {
            "kind": "text",
            "model": MODEL,
            "corpus": CORPUS,
            "context": CONTEXT,
            "tokens": given.text_tokens,
            "coders": 1,
            "tokens_file": str(Path(folder) / "tokens.npy"),
        }
        ours = _side(bench, "saescope", "ours", spec)
        forward = Side(bench.worker("saescope"), "forward", spec | {"kind": "forward"})
        forward.make(1, 1)
        compared = alternate(ours, forward, given.pairs)
        yield Row("text", f"the model alone to {given.point}", forward.ask()["model_dtype"], compared, {})
        together = _side(bench, "saescope", "together", spec | {"coders": TOGETHER})
        compared = alternate(together, ours, given.pairs)
        notes = {"coder-tokens_per_second": f"{compared.ratio * TOGETHER:.2f} times"}
        yield Row(f"text, {TOGETHER} coders", "saescope, 1 coder", "its own", compared, notes)
        together.drop()
        if "sae_lens" in given.peers:
            yield from _against_runner(bench, spec | {"d_in": forward.ask()["d_in"]}, ours)
        for side in (ours, forward):
            side.drop()


def _against_runner(bench: Bench, spec: dict[str, Any], ours: Side) -> Iterator[Row]:
    from speed_vs_peers import Row

    spec |= {
        "tokens": bench.given.text_tokens_peer,
        "model": str(fetch(MODEL, progress=False)),
        "layer": int(spec["point"].split(".")[1]),
    }
    for autocast, label in ((False, "float32"), (True, "bfloat16 autocast")):
        try:
            theirs = _side(bench, "sae_lens", "theirs", spec | {"autocast": autocast})
            yield Row("text", "sae_lens", label, alternate(ours, theirs, bench.given.pairs), {})
            theirs.drop()
        except WorkerError as error:
            yield Row("text", "sae_lens", label, None, {"failed": str(error)})


def _side(bench: Bench, library: str, name: str, spec: dict[str, Any]) -> Side:
    """A turn is one run; one run before, so that nothing is done for the first time."""
    side = Side(bench.worker(library), name, spec)
    side.make(1, 1, fixed=True)
    return side
