"""How long the explorer takes: a feature's page, and the features of a prompt beside the model's own forward.

    python benchmarks/index_latency.py pages INDEX [--pages 2000] [--record benchmarks/results/index.jsonl]
    python benchmarks/index_latency.py prompts INDEX... [--random 9216] [--tokens 64] [--pairs 30] [--record FILE]

`pages` runs `saescope serve` in a process of its own and asks for features' pages over HTTP, one after another over one
connection: --pages features drawn by how often they fire, and as many uniformly, each lot asked for twice. Beside the times
that who asks sees stands what the server's process computed a page.

`prompts` serves real indexes with their model in one process and times, in turns, the prompt route over HTTP and the
model's forward on the same tokens: whole, and to the coder's hook.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch, as on the command line: it chooses how torch's threads wait.
import saescope

# isort: split
import numpy as np

from saescope.features.index import FeatureIndex

TARGETS = {"page_p50_ms": 10.0, "page_p99_ms": 50.0, "prompt_ratio": 1.3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pages", "prompts"])
    parser.add_argument("indexes", type=Path, nargs="*")
    parser.add_argument(
        "--random", type=int, help="of prompts: a random coder of so many latents too, indexed on a little text"
    )
    parser.add_argument("--corpus", default="wikipedia-sample", help="that text")
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--record", type=Path, help="append one JSON line a row there")
    given = parser.parse_args()
    rows = pages(given.indexes[0], given.pages) if given.what == "pages" else prompts(given)
    for row in rows:
        print(json.dumps(row), flush=True)
        if given.record:
            with given.record.open("a") as file:
                file.write(json.dumps(row | {"date": time.strftime("%Y-%m-%dT%H:%M:%S")}) + "\n")


class Asker:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, path: str) -> bytes:
        return self._asked("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        return self._asked("POST", path, json.dumps(body))

    def _asked(self, method: str, path: str, body: str | None) -> bytes:
        headers = {"X-Saescope": "1", "Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        read = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {read[:200]!r}")
        return read


def pages(path: Path, n: int) -> Iterator[dict[str, Any]]:
    index = FeatureIndex.open(path)
    rng = np.random.default_rng(0)
    live = np.flatnonzero(index.count)
    chosen = {
        "uniform": rng.choice(live, n),
        "by firing count": rng.choice(live, n, p=index.count[live] / index.count[live].sum()),
    }
    port = _free_port()
    command = [sys.executable, "-m", "saescope", "serve", str(path), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        asker = _connected(port)
        coder = json.loads(asker.get("/api/workspace"))["coders"][0]["id"]
        asker.get(f"/api/coders/{coder}/features/{int(live[0])}")
        for name, features in chosen.items():
            for warm in (False, True):
                times, sizes = [], []
                before = _processor(server.pid)
                for feature in features.tolist():
                    started = time.perf_counter()
                    sizes.append(len(asker.get(f"/api/coders/{coder}/features/{feature}")))
                    times.append(1000 * (time.perf_counter() - started))
                yield {
                    "benchmark": "feature page",
                    "d_sae": index.d_sae,
                    "nonzeros": index.nnz,
                    "features": name,
                    "asked_before": warm,
                    "pages": n,
                    **_percentiles(times),
                    "processor_ms": round(1000 * (_processor(server.pid) - before) / n, 2),
                    "kilobytes": round(statistics.mean(sizes) / 1000, 1),
                    "server_mib": _memory(server.pid),
                }
    finally:
        server.terminate()
        server.wait(20)


def prompts(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    import torch
    import uvicorn

    from saescope.server import create_app

    lm = saescope.LanguageModel.load(given.model, device="cpu")
    ids = lm.tokenizer(saescope.__doc__ * 40)["input_ids"][: given.tokens - 1]
    text = lm.tokenizer.decode(ids)
    for path in [*given.indexes, None] if given.random else given.indexes:
        with tempfile.TemporaryDirectory() as folder:
            workspace = Path(folder)
            if path is None:
                index = random_index(workspace, lm, given.random, given.corpus)
            else:
                (workspace / "index").symlink_to(path.resolve())
                index = FeatureIndex.open(path)
            port = _free_port()
            server = uvicorn.Server(
                uvicorn.Config(create_app(workspace, lm=lm), port=port, log_level="error", access_log=False)
            )
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()
            asker = _connected(port)
            about = json.loads(asker.get("/api/workspace"))["coders"][0]
            route = f"/api/coders/{about['id']}/prompt"
            answer = json.loads(asker.post(route, {"text": text}))
            tokens = torch.tensor([[lm.tokenizer.bos_token_id or 0, *ids]])
            point = index.manifest.coder.reads[0]

            ways: dict[str, Callable[[], Any]] = {
                "prompt": lambda: asker.post(route, {"text": text}),  # noqa: B023 - called within this turn
                "forward": lambda: lm.run(tokens, logits=True),  # noqa: B023
                "forward_to_hook": lambda: lm.run(tokens, capture=[point]),  # noqa: B023
            }
            times: dict[str, list[float]] = {name: [] for name in ways}
            computed: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(3 + given.pairs):
                for name, way in ways.items():
                    started, busy = time.perf_counter(), time.process_time()
                    way()
                    times[name].append(1000 * (time.perf_counter() - started))
                    computed[name].append(1000 * (time.process_time() - busy))
            for all_times in (times, computed):
                for name in all_times:
                    del all_times[name][:3]
            server.should_exit = True
            thread.join(20)
        medians = {name: statistics.median(values) for name, values in times.items()}
        processor = {name: statistics.median(values) for name, values in computed.items()}
        yield {
            "benchmark": "prompt",
            "coder": about["name"],
            "d_sae": about["d_sae"],
            "tokens": len(answer["tokens"]) + 1,
            "pairs": given.pairs,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "median_ms": {name: round(value, 2) for name, value in medians.items()},
            "processor_median_ms": {name: round(value, 2) for name, value in processor.items()},
            "ratio": round(medians["prompt"] / medians["forward"], 3),
            "ratio_to_hook": round(medians["prompt"] / medians["forward_to_hook"], 3),
            "processor_ratio": round(processor["prompt"] / processor["forward"], 3),
            "processor_ratio_to_hook": round(processor["prompt"] / processor["forward_to_hook"], 3),
        }


def random_index(folder: Path, lm: saescope.LanguageModel, d_sae: int, corpus: str) -> FeatureIndex:
    """Of a TopK coder with random directions, of which 32 are active on every token."""
    import torch

    from saescope.coders import Slice, SparseCoder, make_architecture, save
    from saescope.features.index import TextSource, build_index

    width = lm.d_model
    point = Slice(point="resid_post.14", width=width)
    coder = SparseCoder(make_architecture("topk", d_sae, {"k": 32}), [point], [point])
    directions = torch.randn(d_sae, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        coder.W_enc_rows.copy_(directions)
        coder.W_dec.copy_(directions / directions.norm(dim=1, keepdim=True))
    coder.metadata.name = f"random-topk-{d_sae}"
    coder.metadata.model = lm.identity()
    coder.metadata.sequences = {"context": 256}
    coder.eval().requires_grad_(False)
    save(coder, folder / "coder")
    source = TextSource(coder, lm, saescope.Corpus.open(corpus), tokens=2048)
    return build_index(coder, source, folder / "index", coder_path=folder / "coder")


def _percentiles(times: list[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return {"p50_ms": round(p50, 2), "p90_ms": round(p90, 2), "p99_ms": round(p99, 2), "max_ms": round(max(times), 2)}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _connected(port: int) -> Asker:
    deadline = time.monotonic() + 120
    while True:
        try:
            asker = Asker(port)
            asker.get("/api/workspace")
            return asker
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _processor(pid: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    """MiB of its own, mapped files left out."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) // 1024


if __name__ == "__main__":
    main()
