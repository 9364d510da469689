"""How fast saescope trains beside other libraries: in turns on the same machine, on the same activations.

    python benchmarks/speed_vs_peers.py DATA --python PEER_PYTHON [--cases topk,matryoshka] [--peers sae_lens,sparsify]
        [--pairs 5] [--steps 2] [--warmup 3] [--record benchmarks/results/speed.jsonl]
    python benchmarks/speed_vs_peers.py --synthetic 2304 --device cuda --python PEER_PYTHON --d-sae 65536 …

DATA is an export of `quality.py`, PEER_PYTHON the interpreter described there. Cases:

    topk, batchtopk, matryoshka, jumprelu, standard, gated   like architecture against like, no latent dead
    auxk      topk with --dead of the latents counted as dead, so that AuxK is computed
    bare      our steps beside the encoder's product alone in bfloat16, which any exact method has to do
    growth    our cost per token from 2^12 to 2^17 latents, each beside the next
    memory    the most memory of a step beyond weights, gradients and Adam's moments, at 131,072 latents and batch 8,192
    text      from text to coder beside the model alone (`speed_text`)
    together  from text to 8 coders beside one
    runner    from text to coder beside SAELens's runner

Timed is the whole optimiser step as each library's own trainer takes it: scaling, forward, loss, backward, clipping, Adam,
decoder norm, dead-latent bookkeeping. Loading the batch is not, for any library. A pair is a turn of each side; a turn
is --steps steps, and as many more as take a second. The ratio is of the medians; beside it, the least and greatest of any pair.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from speed_pairs import FOLDER, QUIET, Compared, Side, Worker, WorkerError, alternate

LIBRARIES = ("sae_lens", "dictionary_learning", "sparsify")
ARCHITECTURES = {
    "topk": LIBRARIES,
    "batchtopk": LIBRARIES[:2],
    "matryoshka": LIBRARIES[:2],
    "jumprelu": LIBRARIES[:1],
    "standard": LIBRARIES[:1],
    "gated": LIBRARIES[:1],
}
TEXT = ("text", "together", "runner")
CASES = (*ARCHITECTURES, "auxk", "bare", "growth", "memory", *TEXT)
# Where L0 is steered it first swings; our steps are faster the fewer latents are active, the peers' are not.
SETTLED, PENALISED = 60, ("jumprelu", "standard", "gated")
FLOAT, AUTOCAST = {"autocast": False}, {"autocast": True}
SPARSE = {"autocast": False, "sparse": True}
GROWTH = [2**power for power in range(12, 18)]


@dataclass(frozen=True)
class Row:
    """A line of the table and of the record."""

    case: str
    peer: str
    precision: str
    compared: Compared | None
    notes: dict[str, Any]

    def markdown(self) -> str:
        cells = [self.case, self.peer, self.precision]
        if self.compared is None:
            return "| " + " | ".join([*cells, "", "", "", "", _said(self.notes)]) + " |"
        found = self.compared.record()
        rates = [f"{statistics.median(rates):,.0f}" for rates in (self.compared.ours, self.compared.theirs)]
        spread = f"{found['ratio_min']:.2f}–{found['ratio_max']:.2f}"
        return "| " + " | ".join([*cells, *rates, f"{found['ratio']:.2f}", spread, _said(self.notes)]) + " |"

    def record(self) -> dict[str, Any]:
        named = {"case": self.case, "peer": self.peer, "precision": self.precision}
        return named | (self.compared.record() if self.compared else {}) | self.notes


HEAD = (
    "| case | against | its precision | ours, tokens/s | its, tokens/s | ratio | least–greatest | notes |\n"
    + "|---" * 8
    + "|"
)


def _said(notes: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in notes.items())


class Bench:
    """The worker processes and the shapes of one call."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self._workers: dict[str, Worker] = {}

    def worker(self, library: str) -> Worker:
        """Ours, or that library's, started once."""
        if library not in self._workers:
            self._workers[library] = self.fresh(library)
        return self._workers[library]

    def fresh(self, library: str) -> Worker:
        threads = ["--threads", str(self.given.threads)]
        if library == "saescope":
            return Worker([sys.executable, str(FOLDER / "speed_worker.py"), *threads])
        script = [str(FOLDER / "peers" / "time_peer.py"), "--library", library]
        without_triton = {"SPARSIFY_DISABLE_TRITON": "1"} if self.given.device == "cpu" else {}
        return Worker([str(self.given.python), *script, *threads], QUIET | without_triton)

    def close(self) -> None:
        for worker in self._workers.values():
            worker.__exit__()

    def versions(self) -> dict[str, dict[str, str]]:
        return {name: worker.versions for name, worker in self._workers.items()}

    def spec(self, arch: str, **more: Any) -> dict[str, Any]:
        given = self.given
        shape = {"d_sae": given.d_sae, "k": given.k, "batch": given.batch_size, "seed": 0, "dead": 0.0}
        rows = {"data": str(given.data), "point": given.point, "synthetic": given.synthetic, "device": given.device}
        return {"kind": "step", "arch": arch} | rows | shape | more

    def side(self, library: str, name: str, spec: dict[str, Any]) -> Side:
        """Warmed up, and until its L0 has settled where it is ours and steered."""
        side = Side(self.worker(library), name, spec)
        settled = SETTLED if library == "saescope" and spec["arch"] in PENALISED and spec["kind"] == "step" else 0
        side.make(max(self.given.warmup, settled), self.given.steps)
        return side


def rows(bench: Bench, case: str) -> Iterator[Row]:
    if case == "growth":
        yield from growth(bench)
    elif case == "memory":
        yield memory(bench)
    elif case == "bare":
        for arch in ARCHITECTURES:
            yield against_bare(bench, arch)
    elif case in TEXT:
        import speed_text_rows

        yield from speed_text_rows.CASES[case](bench)
    else:
        yield from against_peers(bench, case)


def against_peers(bench: Bench, case: str) -> Iterator[Row]:
    arch, dead = ("topk", bench.given.dead) if case == "auxk" else (case, 0.0)
    ours = bench.side("saescope", "ours", bench.spec(arch, dead=dead))
    for library in ARCHITECTURES[arch]:
        if library not in bench.given.peers:
            continue
        for precision in _precisions(library, arch):
            label = "bfloat16 autocast" if precision["autocast"] else "float32"
            label += ", sparse activations" if precision.get("sparse") else ""
            try:
                theirs = bench.side(library, "theirs", bench.spec(arch, dead=dead, **precision))
                compared = alternate(ours, theirs, bench.given.pairs)
                here, there = ours.ask(), theirs.ask()
                notes = {"L0": f"{here['l0']:.4g} and {there['l0']:.4g}"}
                if dead:
                    notes["dead"] = f"{here['dead']} and {there['dead']}"
                yield Row(case, library, label, compared, notes)
                theirs.drop()
            except WorkerError as error:
                yield Row(case, library, label, None, {"failed": str(error)})
    ours.drop()


def _precisions(library: str, arch: str) -> list[dict[str, bool]]:
    if library == "sparsify":
        return [FLOAT]
    return [FLOAT, SPARSE, AUTOCAST] if (library, arch) == ("sae_lens", "topk") else [FLOAT, AUTOCAST]


def against_bare(bench: Bench, arch: str) -> Row:
    ours = bench.side("saescope", "ours", bench.spec(arch))
    bare = bench.side("saescope", "bare", bench.spec(arch) | {"kind": "bare"})
    compared = alternate(ours, bare, bench.given.pairs)
    notes = {"cost_of_a_step_in_products": round(1 / compared.ratio, 2)}
    for side in (ours, bare):
        side.drop()
    return Row(f"bare: {arch}", "the encoder's product", "bfloat16", compared, notes)


def growth(bench: Bench) -> Iterator[Row]:
    """Each width beside its double: the ratio is how much a token's cost grows."""
    for arch in bench.given.growth_archs:
        for narrow, wide in itertools.pairwise(GROWTH):
            sides = [bench.side("saescope", f"{size}", bench.spec(arch, d_sae=size)) for size in (narrow, wide)]
            compared = alternate(*sides, bench.given.pairs)
            yield Row(f"growth: {arch}, {narrow}", f"saescope, {wide}", "its own", compared, {})
            for side in sides:
                side.drop()


def memory(bench: Bench) -> Row:
    """In a process of its own, by `saescope bench`."""
    given = bench.given
    shape = {"arch": given.memory_arch, "d-sae": given.memory_d_sae, "batch-size": given.memory_batch, "k": given.k}
    options = [word for name, value in shape.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "saescope", "bench", "--json", "--pairs", "1", "--device", given.device, *options]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sizes = {
        "above_weights_gradients_moments_MiB": json.loads(answer)["steps"][0]["memory"],
        "one_float32_batch_of_all_latents_MiB": 4 * given.memory_d_sae * given.memory_batch,
    }
    notes = {name: round(size / 2**20) for name, size in sizes.items()}
    return Row(f"memory: {given.memory_arch}, {given.memory_d_sae}, batch {given.memory_batch}", "", "", None, notes)


def conditions(bench: Bench) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "versions": bench.versions(),
        "cpu": names[0] if names else platform.processor(),
        "gpu": torch.cuda.get_device_name() if bench.given.device == "cuda" else None,
        "threads": bench.worker("saescope").threads,
        "shape": {
            name: getattr(bench.given, name)
            for name in ("synthetic", "d_sae", "k", "batch_size", "pairs", "warmup", "point")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="an export; not needed with --synthetic")
    parser.add_argument("--synthetic", type=int, help="width of synthetic rows instead")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--cases", type=_words, default=list(CASES))
    parser.add_argument("--peers", type=_words, default=list(LIBRARIES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="least number of steps in a turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the first turn")
    parser.add_argument("--threads", type=int, default=0, help="of every worker; default: torch's own choice")
    parser.add_argument("--point", default="resid_post.14")
    parser.add_argument("--d-sae", type=int, default=9216)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--dead", type=float, default=0.1, help="share of latents counted as dead, for auxk")
    parser.add_argument("--growth-archs", type=_words, default=["topk", "batchtopk"])
    parser.add_argument("--memory-arch", default="batchtopk")
    parser.add_argument("--memory-d-sae", type=int, default=131072)
    parser.add_argument("--memory-batch", type=int, default=8192)
    parser.add_argument("--text-tokens", type=int, default=32768, help="of our runs from text")
    parser.add_argument("--text-tokens-peer", type=int, default=8192, help="of the peer's")
    parser.add_argument("--record", type=Path, help="append one JSON line a row there")
    given = parser.parse_args()
    for name, known in (("cases", CASES), ("peers", LIBRARIES)):
        if unknown := set(getattr(given, name)) - set(known):
            parser.error(f"--{name} knows {', '.join(known)}, not {', '.join(sorted(unknown))}")
    if not given.data and not given.synthetic:
        parser.error("give an export's folder or --synthetic WIDTH")
    bench = Bench(given)
    print(HEAD, flush=True)
    try:
        for case in given.cases:
            for row in rows(bench, case):
                print(row.markdown(), flush=True)
                if given.record:
                    with given.record.open("a") as file:
                        file.write(json.dumps(row.record() | conditions(bench)) + "\n")
    finally:
        bench.close()


def _words(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
