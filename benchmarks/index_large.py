"""A feature index as large as one asks for, made of nothing: to measure what a page costs on it (`index_latency.py`).

    python benchmarks/index_large.py LIKE OUT [--d-sae 65536] [--positions 3125000] [--active 32]

LIKE is a finished index of a real coder: densities are spread as its features' are, tokens, documents and tokenizer are
its own over again, and what only weights tell is its own or random. Which features fire where is drawn at random, position
after position; from there on the index's own code does everything: parts, assembly, transpose, sweep, co-activation, forms,
table.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch, as on the command line: it chooses how torch's threads wait.
import saescope  # noqa: F401

# isort: split
import numpy as np

from saescope.activations.documents import DOCUMENTS
from saescope.features.index import FeatureIndex, IndexManifest
from saescope.features.index.arrays import ARRAYS, write_array
from saescope.features.index.assembly import assemble, transpose
from saescope.features.index.facts import write_forms
from saescope.features.index.manifest import recorded
from saescope.features.index.parts import PARTS, Part, write_part
from saescope.features.index.reader import TOKENIZER
from saescope.features.index.statistics import find_coactive, sweep_features
from saescope.features.index.tables import FEATURES, write_features

PART_POSITIONS = 65_536
# Rows of these are drawn from the index that this one is like; the others' entries name features.
_FROM_WEIGHTS = (
    "lens_top", "lens_top_logits", "lens_bottom", "lens_bottom_logits", "lens_peak", "decoder_norm", "neurons",
    "neuron_weights", "neuron_shares", "map",
)  # fmt: skip
_OF_FEATURES = ("nearest_decoder", "nearest_encoder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("like", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-sae", type=int, default=65_536)
    parser.add_argument("--positions", type=int, default=3_125_000)
    parser.add_argument("--active", type=int, default=32, help="latents of a token, on average")
    parser.add_argument("--memory", type=int, default=2**29, help="bytes for the transpose")
    given = parser.parse_args()
    made = make(given.like, given.out, given.d_sae, given.positions, given.active, given.memory)
    print(json.dumps(made))


def make(like: Path, out: Path, d_sae: int, positions: int, active: int, memory: int) -> dict[str, Any]:
    """Returns the processor's seconds of each stage, and the most memory (MiB) this process had of its own."""
    known = FeatureIndex.open(like)
    rng = np.random.default_rng(0)
    manifest = _manifest(known, d_sae)
    out.mkdir(parents=True)
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = work()
        seconds[stage] = round(time.process_time() - started, 1)
        return result

    fingerprint = manifest.fingerprint()
    n_parts = timed("draw", lambda: _draw(known, out, fingerprint, d_sae, positions, active, rng))
    manifest.counts = timed("assemble", lambda: assemble(out, n_parts, fingerprint, d_sae, _untold))
    shutil.rmtree(out / PARTS)
    timed("transpose", lambda: transpose(out, memory, _untold))
    names = timed("sweep", lambda: sweep_features(out, known.documents, _untold))
    manifest.names = {**known.manifest.names, **names}
    timed("co-activation", lambda: find_coactive(out, manifest.counts.tokens))
    timed("weights", lambda: _weights(known, out, d_sae, rng))
    timed("forms", lambda: write_forms(out, manifest, known.tokenizer))
    shutil.copytree(like / TOKENIZER, out / TOKENIZER)
    shutil.copy(like / DOCUMENTS, out / DOCUMENTS)
    manifest.write(out)
    index = FeatureIndex.open(out, incomplete=True)
    timed("table", lambda: write_features(index))
    kept = [
        DOCUMENTS,
        FEATURES,
        *(f"{part}/{path.name}" for part in (ARRAYS, TOKENIZER) for path in (out / part).iterdir()),
    ]
    manifest.files = {name: recorded(out / name) for name in sorted(kept)}
    manifest.complete = True
    manifest.write(out)
    FeatureIndex.open(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"nonzeros": manifest.counts.nonzeros, "live": manifest.counts.live, "seconds": seconds, "peak_rss_mib": peak,
            "peak_anonymous_mib": _peak_anonymous}  # fmt: skip


_peak_anonymous = 0


def _untold(done: int, total: int) -> None:
    """Called now and then while the index is made: a time to look at how much memory is taken beside mapped files."""
    global _peak_anonymous
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        _peak_anonymous = max(_peak_anonymous, int(line.split()[1]) // 1024)


def _manifest(known: FeatureIndex, d_sae: int) -> IndexManifest:
    coder = known.manifest.coder.model_copy(
        update={
            "name": f"made up, {d_sae}",
            "path": "",
            "d_sae": d_sae,
            "levels": [d_sae],
            "fingerprint": f"{d_sae:064x}",
        }
    )
    return known.manifest.model_copy(update={"coder": coder, "complete": False, "files": {}, "source": {"made": "up"}})


def densities(known: FeatureIndex, d_sae: int, active: int) -> np.ndarray:
    """Expected firings of each feature at a position: as spread as the known index's, rank by rank, `active` together."""
    live = np.sort(known.density[known.count > 0])[::-1]
    ranks = np.linspace(0, len(live) - 1, d_sae)
    spread = np.exp(np.interp(ranks, np.arange(len(live)), np.log(live)))
    return np.asarray(spread / spread.sum() * active)


def _draw(
    known: FeatureIndex, out: Path, fingerprint: str, d_sae: int, positions: int, active: int, rng: np.random.Generator
) -> int:
    share = densities(known, d_sae, active)[rng.permutation(d_sae)]
    cumulative = np.cumsum(share / share.sum())
    cumulative[-1] = 1.0
    lengths = np.diff(known.arrays["sequence_offsets"])
    tokens, document = np.asarray(known.arrays["tokens"]), np.asarray(known.arrays["document"])
    kept = np.asarray(known.arrays["kept"])
    starts = np.asarray(known.arrays["sequence_offsets"])
    # A feature's values: log-normal about a level of its own.
    level = np.exp(rng.normal(0, 0.5, d_sae)).astype(np.float32)
    number, done, turn = 0, 0, 0
    while done < positions:
        chosen = []
        size = 0
        while size < PART_POSITIONS and done + size < positions:
            chosen.append(turn % len(lengths))
            size += int(lengths[chosen[-1]])
            turn += 1
        places = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in chosen])
        here = kept[places]
        rows = np.repeat(np.arange(len(places)), np.where(here > 0, active, 0))
        features = np.minimum(np.searchsorted(cumulative, rng.random(len(rows))), d_sae - 1)
        keys = np.unique(rows.astype(np.int64) * d_sae + features)
        rows, features = keys // d_sae, keys % d_sae
        values = level[features] * np.exp(0.6 * rng.standard_normal(len(features), np.float32))
        part = Part(
            tokens[places], document[places], here, lengths[chosen].astype(np.int64),
            np.bincount(rows, minlength=len(places)).astype(np.int32), features.astype(np.uint32),
            values.astype(np.float32),
        )  # fmt: skip
        write_part(out, number, part, fingerprint)
        number, done = number + 1, done + size
        _untold(done, positions)
    return number


def _weights(known: FeatureIndex, out: Path, d_sae: int, rng: np.random.Generator) -> None:
    rows = rng.integers(0, known.d_sae, d_sae)
    for name in _FROM_WEIGHTS:
        if known.has(name):
            write_array(out, name, np.asarray(known.arrays[name])[rows])
    for name in _OF_FEATURES:
        if known.has(name):
            width = known.arrays[name].shape[1]
            write_array(out, name, rng.integers(0, d_sae, (d_sae, width)).astype(np.int32))
            write_array(out, f"{name}_cosine", np.sort(rng.random((d_sae, width), np.float32))[:, ::-1])


if __name__ == "__main__":
    main()
