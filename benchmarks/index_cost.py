"""What an index costs beyond what no method can do without: running the model and the coder on the text.

    python benchmarks/index_cost.py CODER STORE [--sample 32768] [--memory 1024] [--threads 1]
        [--record benchmarks/results/index.jsonl]

Builds the index of all that STORE has, its output tokens included, and takes the time of the coder's `encode` apart as it
goes. The model's forward on the same tokens is estimated from --sample of them, run in the same process to the point that
the coder reads. Seconds are the processor's: what else the machine does is not counted. Memory is the process's own
(anonymous) beside its model, at its most, and what the kernel counts in all.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

# Before torch, as on the command line: it chooses how torch's threads wait.
import saescope

# isort: split
import torch

from saescope.activations import Store
from saescope.features.index import StoreSource, build_index

BATCH_TOKENS = 4096
TARGETS = {"beyond_model_and_coder": 0.15, "anonymous_mib": 2048}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coder", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--sample", type=int, default=32_768, help="tokens that the model is run on")
    parser.add_argument("--memory", type=int, default=1024, help="MiB for the transpose, as build_index's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", type=Path, help="append one JSON line there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    row = cost(given)
    print(json.dumps(row, indent=1))
    if given.record:
        with given.record.open("a") as file:
            file.write(json.dumps(row) + "\n")


def cost(given: argparse.Namespace) -> dict[str, Any]:
    store = Store.open(given.store)
    coder = saescope.load(given.coder)
    coder.requires_grad_(False)
    lm = saescope.LanguageModel.load(given.model, device="cpu")
    first = forward(lm, store, coder.reads[0].point, given.sample // 2)
    encode = Timed(coder.encode)
    coder.encode = encode  # type: ignore[method-assign]
    stages = Stages()
    own_before = status("RssAnon")
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        started = time.process_time()
        index = build_index(
            coder,
            StoreSource(coder, store),
            Path(folder) / "index",
            lm=lm,
            memory=given.memory * 2**20,
            progress=stages,
        )
        seconds = time.process_time() - started
        counts = index.manifest.counts
    second = forward(lm, store, coder.reads[0].point, given.sample // 2)
    # One run before and one after: what changes on the machine between is in both.
    per_token = (first + second) / 2
    model = per_token * counts.positions
    beyond = seconds - encode.seconds
    return {
        "benchmark": "index_cost",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "coder": given.coder.name,
        "d_sae": index.d_sae,
        "tokens": counts.tokens,
        "nonzeros": counts.nonzeros,
        "threads": given.threads,
        "model_dtype": str(lm.dtype).removeprefix("torch."),
        "seconds": {
            "build": round(seconds, 1),
            "encoder": round(encode.seconds, 1),
            "beyond": round(beyond, 1),
            "model, estimated": round(model, 1),
            "model, by halves of the sample": [round(one * counts.positions, 1) for one in (first, second)],
        },
        "stages": stages.seconds(started + seconds),
        "beyond_model_and_coder": round(beyond / (model + encode.seconds), 4),
        "anonymous_mib": watch.most - own_before,
        "anonymous_with_model_mib": watch.most,
        "peak_rss_mib": status("VmHWM"),
        "targets": TARGETS,
    }


def forward(lm: saescope.LanguageModel, store: Store, point: str, tokens: int) -> float:
    """Processor seconds of a token, to the point, on the store's own sequences."""
    sequences = store.shard(0).sequences
    context = sequences.shape[1]
    rows = sequences[: tokens // context].long().clamp(min=0)
    size = BATCH_TOKENS // context
    lm.run(rows[:size], capture=[point])
    started = time.process_time()
    for start in range(0, len(rows), size):
        lm.run(rows[start : start + size], capture=[point])
    return (time.process_time() - started) / rows.numel()


class Timed:
    """A function, and the processor's seconds that went into it."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *given: Any, **named: Any) -> Any:
        started = time.process_time()
        try:
            return self._function(*given, **named)
        finally:
            self.seconds += time.process_time() - started


class Stages:
    """Progress, as the processor's time at which each stage began."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._began.setdefault(stage, time.process_time())

    def seconds(self, end: float) -> dict[str, float]:
        ends = [*list(self._began.values())[1:], end]
        return {name: round(until - began, 1) for (name, began), until in zip(self._began.items(), ends, strict=True)}


class Watch:
    """The most memory of its own that this process has, looked at ten times a second."""

    def __init__(self) -> None:
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self.most = max(self.most, status("RssAnon"))


def status(name: str) -> int:
    """MiB, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024


if __name__ == "__main__":
    main()
