"""The rows of `speed_vs_peers.py --cases text,together,runner`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saescope.assets import fetch
from speed_pairs import Side, WorkerError, alternate

if TYPE_CHECKING:
    from speed_vs_peers import Bench, Row

MODEL, CORPUS, CONTEXT = "smollm2", "demo", 256
TOGETHER = 8


def beside_model(bench: Bench) -> Iterator[Row]:
    """Our streaming training beside the model's forward alone."""
    from speed_vs_peers import Row

    with _spec(bench) as spec:
        ours = _side(bench, "saescope", "ours", spec)
        forward = _forward(bench, spec)
        compared = alternate(ours, forward, bench.given.pairs)
        tokens = f"{spec['tokens']:,} of text"
        yield Row(
            "text", f"the model alone to {spec['point']}", forward.ask()["model_dtype"], compared, {"tokens": tokens}
        )
        for side in (ours, forward):
            side.drop()


def together(bench: Bench) -> Iterator[Row]:
    """Several coders in one run beside one."""
    from speed_vs_peers import Row

    with _spec(bench) as spec:
        ours = _side(bench, "saescope", "ours", spec)
        several = _side(bench, "saescope", "together", spec | {"coders": TOGETHER})
        compared = alternate(several, ours, bench.given.pairs)
        notes = {"coder-tokens_per_second": f"{compared.ratio * TOGETHER:.2f} times"}
        yield Row(f"text, {TOGETHER} coders", "saescope, 1 coder", "its own", compared, notes)
        for side in (several, ours):
            side.drop()


def beside_runner(bench: Bench) -> Iterator[Row]:
    """Our streaming training beside SAELens's runner."""
    from speed_vs_peers import Row

    if "sae_lens" not in bench.given.peers:
        return
    with _spec(bench) as spec:
        ours = _side(bench, "saescope", "ours", spec)
        # Writes the tokens that the runner reads.
        forward = _forward(bench, spec)
        its = spec | {
            "tokens": bench.given.text_tokens_peer,
            "model": str(fetch(MODEL, progress=False)),
            "layer": int(spec["point"].split(".")[1]),
            "d_in": forward.ask()["d_in"],
        }
        for autocast, label in ((False, "float32"), (True, "bfloat16 autocast")):
            try:
                theirs = _side(bench, "sae_lens", "theirs", its | {"autocast": autocast})
                yield Row("text", "sae_lens", label, alternate(ours, theirs, bench.given.pairs), {})
                theirs.drop()
            except WorkerError as error:
                yield Row("text", "sae_lens", label, None, {"failed": str(error)})
        for side in (ours, forward):
            side.drop()


@contextmanager
def _spec(bench: Bench) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield bench.spec("topk") | {
            "kind": "text",
            "model": MODEL,
            "corpus": CORPUS,
            "context": CONTEXT,
            "tokens": bench.given.text_tokens,
            "coders": 1,
            "tokens_file": str(Path(folder) / "tokens.npy"),
        }


def _forward(bench: Bench, spec: dict[str, Any]) -> Side:
    side = Side(bench.worker("saescope"), "forward", spec | {"kind": "forward"})
    side.make(1, 1)
    return side


def _side(bench: Bench, library: str, name: str, spec: dict[str, Any]) -> Side:
    """A turn is one run; one run before, so that nothing is done for the first time."""
    side = Side(bench.worker(library), name, spec)
    side.make(1, 1, fixed=True)
    return side


CASES = {"text": beside_model, "together": together, "runner": beside_runner}
