"""How fast a feature index is made beside SAEDashboard's dashboards: same model, coder, tokens and threads, in turns.

    python benchmarks/index_vs_saedashboard.py CODER --python PEER_PYTHON [--tokens 8192,32768] [--features 256] [--pairs 2]
        [--float32] [--corpus wikipedia-sample] [--record benchmarks/results/index.jsonl]

PEER_PYTHON is the interpreter of an environment of its own with `sae-dashboard` (and `pyarrow<22`); CODER a folder that
`sae_lens` loads too. SAEDashboard works through features in minibatches of 256 and is timed on --features of them a turn,
with the model's activations in its cache, where one more run has put them; that run is timed by itself and shared among
all features, so that its rate is that of a job on all of them:

    features / (seconds of the forward + features x seconds per feature)

Without its cache, which is its default, it would run the model again for every minibatch; that rate is computed too.

Seconds are the processor's, on one thread: what others do on the machine at the same time does not count. Ours makes all
features in one go: the whole index from text, the model's forward included, and from a store without it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speed_pairs import FOLDER, QUIET, Side, Worker

HEAD = (
    "| tokens | ours | its dtype | ours, features/s | SAEDashboard, features/s | ratio | least-greatest |\n"
    + "|---" * 7
    + "|"
)


def main() -> None:
    given = _parsed()
    threads = ["--threads", "1"]
    ours = Worker([sys.executable, str(FOLDER / "index_worker.py"), *threads])
    theirs = Worker([str(given.python), str(FOLDER / "peers" / "time_sae_dashboard.py"), *threads], QUIET)
    with ours, theirs, tempfile.TemporaryDirectory() as scratch:
        conditions = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "cpu": _cpu(),
            "threads": ours.threads,
            "versions": ours.versions | theirs.versions,
            "coder": given.coder.name,
        }
        print(HEAD, flush=True)
        for tokens in given.tokens:
            for row in rows(given, ours, theirs, Path(scratch), tokens):
                print(_markdown(row), flush=True)
                print(json.dumps(row), file=sys.stderr, flush=True)
                if given.record:
                    with given.record.open("a") as file:
                        file.write(json.dumps(row | conditions) + "\n")


def rows(given: argparse.Namespace, ours: Worker, theirs: Worker, scratch: Path, tokens: int) -> list[dict[str, Any]]:
    """One row for each of our ways, all beside the same turns of the peer."""
    shape = {
        "coder": str(given.coder.resolve()), "model": given.model, "corpus": given.corpus, "context": given.context,
        "tokens": tokens,
    }  # fmt: skip
    files = {"tokens_file": str(scratch / f"{tokens}.npy"), "reference_file": str(scratch / f"reference-{tokens}.npy")}
    forward = Side(ours, "forward", shape | {"part": "forward", "dtype": "auto"} | files)
    forward.make(0, 1, fixed=True)
    peer = {
        "coder": shape["coder"], "model": str(_model_folder(given.model)), "tokens": files["tokens_file"],
        "reference": files["reference_file"], "special": forward.ask()["special"], "layer": given.layer,
        "features": given.features, "cache": str(scratch / f"cache-{tokens}"),
    }  # fmt: skip
    ways = {
        "from text": shape | {"part": "text", "dtype": "auto"},
        "from text, float32": shape | {"part": "text", "dtype": "float32"},
        "from a store": shape | {"part": "store", "dtype": "auto"},
    }
    if not given.float32:
        del ways["from text, float32"]
    mine = {name: Side(ours, name, spec) for name, spec in ways.items()}
    their_forward = Side(theirs, "forward", peer | {"part": "forward"})
    their_features = Side(theirs, "features", peer | {"part": "features"})
    for name, side in mine.items():
        # What loads once, loads here.
        small = Side(ours, name, side.spec | {"tokens": 1024})
        small.make(1, 1, fixed=True)
        small.drop()
        side.make(0, 1, fixed=True)
    for side in (their_forward, their_features):
        side.make(0, 1, fixed=True)
    seconds: dict[str, list[float]] = {name: [] for name in [*mine, "its forward", "its features"]}
    our_forward = ours.request("run", "forward", steps=1)["seconds"]
    for pair in range(given.pairs):
        turns = [
            *mine.items(),
            ("its forward", their_forward),
            ("its features", their_features),
        ]
        for name, side in turns if pair % 2 == 0 else turns[::-1]:
            seconds[name].append(side.worker.request("run", side.name, steps=1)["seconds"])
            print(f"  {tokens} tokens: {name} {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    facts = their_features.ask()
    found = []
    for name, side in mine.items():
        about = side.ask()
        d_sae = about["features"]
        rates = [d_sae / one for one in seconds[name]]
        its = [
            d_sae / (first + d_sae * one / given.features)
            for first, one in zip(seconds["its forward"], seconds["its features"], strict=True)
        ]
        ratios = [a / b for a, b in zip(rates, its, strict=True)]
        found.append(
            {
                "benchmark": "index_vs_saedashboard",
                "tokens": tokens,
                "ours": name,
                "model_dtype": about["model_dtype"],
                "d_sae": d_sae,
                "ours_seconds": _rounded(seconds[name]),
                "our_forward_seconds": round(our_forward, 3),
                "ours_features_per_second": _rounded(rates),
                "its_forward_seconds": _rounded(seconds["its forward"]),
                "its_features": given.features,
                "its_features_seconds": _rounded(seconds["its features"]),
                "its_features_per_second": _rounded(its),
                "its_seconds_per_feature": round(statistics.median(seconds["its features"]) / given.features, 4),
                "its_features_per_second_without_cache": _rounded(
                    [
                        given.features / (first * math.ceil(given.features / facts["minibatch_features"]) + one)
                        for first, one in zip(seconds["its forward"], seconds["its features"], strict=True)
                    ]
                ),
                "ratio": round(statistics.median(rates) / statistics.median(its), 1),
                "ratio_min": round(min(ratios), 1),
                "ratio_max": round(max(ratios), 1),
                "our_index": about,
                "its_settings": facts,
            }
        )
    for side in (*mine.values(), forward, their_forward, their_features):
        side.drop()
    return found


def _markdown(row: dict[str, Any]) -> str:
    ours, its = (statistics.median(row[f"{side}_features_per_second"]) for side in ("ours", "its"))
    spread = f"{row['ratio_min']:.0f}-{row['ratio_max']:.0f}"
    cells = [f"{row['tokens']:,}", row["ours"], row["model_dtype"], f"{ours:,.0f}", f"{its:.2f}", f"{row['ratio']:.0f}"]
    return "| " + " | ".join([*cells, spread]) + " |"


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


def _model_folder(spec: str) -> Path:
    from saescope import assets

    return Path(assets.fetch(spec)) if spec in assets.MODELS else Path(spec)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coder", type=Path)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--corpus", default="wikipedia-sample")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--tokens", type=lambda text: [int(part) for part in text.split(",")], default=[8192, 32768])
    parser.add_argument("--features", type=int, default=256, help="of a turn of the peer")
    parser.add_argument("--float32", action="store_true", help="time ours with a model in float32 too")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--record", type=Path, help="append one JSON line a row there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
