"""Which known features saescope and SAELens find, like architecture against like, trained on the same generated batches.

    python benchmarks/synthetic_vs_sae_lens.py FOLDER --python PEER_PYTHON [--record benchmarks/results/synthetic.jsonl]

PEER_PYTHON is the interpreter of an environment of its own: pip install torch==2.13.0 sae-lens==6.54.12

SynthSAEBench-16k's shape at a sixteenth (preset `small`): 1,024 features, 128 dimensions, Zipf rates, exclusive families,
correlation; 256 latents, L0 8. Matryoshka and BatchTopK of either library, float32, the same rows in the same batches of
1,024. `--beta1` is Adam's in both; .9 is SAELens's default, .7 saescope's. Each library's learning rate is the one of
1e-4, 3e-4, 1e-3 with the best F1 + MCC at seed 0, and while the best stands at the upper end, about three times that is
tried as well, up to 1e-2. L0 is settled on the same held-out rows for both and counted again on the rows that are measured.
A cell is a folder; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file

PEERS = Path(__file__).parent / "peers"
# What reads the export is shared with the peers' environment, where only that folder is on the path.
sys.path.append(str(PEERS))

from exported import Exported  # noqa: E402

import saescope  # noqa: E402
from saescope import CoderConfig, SparseCoder, TrainConfig  # noqa: E402
from saescope.coders import Slice, make_architecture  # noqa: E402
from saescope.evaluation.resampling import mean_interval  # noqa: E402
from saescope.evaluation.synthetic import (  # noqa: E402
    METRICS,
    POINT,
    GroundTruth,
    SyntheticStream,
    chance,
    oracle,
    preset,
    recovery,
)
from synthetic_export import ExportedStream, export  # noqa: E402

OURS, THEIRS = "saescope", "sae_lens"
ARCHS = ("matryoshka", "batchtopk")
RATES, HIGHER = (1e-4, 3e-4, 1e-3), (3e-3, 1e-2)
MEASURED_ROWS = 2**17
TIMEOUT = 3600


@dataclass(frozen=True)
class Cell:
    """One coder: trained, then measured."""

    library: str
    arch: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.library}_{self.arch}_lr{self.lr:g}_s{self.seed}"


@dataclass(frozen=True)
class Bench:
    """Everything that the cells share."""

    folder: Path
    python: Path
    truth: GroundTruth
    d_sae: int
    l0: int
    beta1: float = 0.9

    @property
    def data(self) -> Exported:
        return Exported(self.folder / "data")

    def place(self, cell: Cell) -> Path:
        """A folder for every cell."""
        other = "" if self.beta1 == 0.9 else f"_beta1-{self.beta1:g}"
        return self.folder / "cells" / f"{cell.name}{other}"

    def result(self, cell: Cell) -> dict[str, Any] | None:
        path = self.place(cell) / "cell.json"
        return json.loads(path.read_text()) if path.exists() else None

    def run(self, cell: Cell) -> dict[str, Any]:
        """The finished cell's record; trains and measures it where it is not finished."""
        if (found := self.result(cell)) is not None:
            return found
        folder = self.place(cell)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{time.strftime('%H:%M:%S')} {cell.name}", flush=True)
        coder, facts = (self._ours if cell.library == OURS else self._theirs)(cell, folder)
        measured = SyntheticStream(self.truth, tokens=1, batch_size=1).measured_rows(MEASURED_ROWS)
        record = {
            "library": cell.library, "arch": cell.arch, "lr": cell.lr, "seed": cell.seed, "d_sae": self.d_sae,
            "wanted_l0": self.l0, "rows": self.data.described["train_rows"], **facts,
            **recovery(coder, self.truth, measured).to_dict(),
        }  # fmt: skip
        (folder / "cell.writing").write_text(json.dumps(record, indent=1))
        (folder / "cell.writing").rename(folder / "cell.json")
        print(f"           F1 {record['f1']:.3f}, MCC {record['mcc']:.3f}, L0 {record['l0']:.2f}", flush=True)
        return record

    def _ours(self, cell: Cell, folder: Path) -> tuple[SparseCoder, dict[str, Any]]:
        settled = self.data.described["held_out_rows"]
        wanted = CoderConfig(
            name="coder",
            arch=cell.arch,
            d_sae=self.d_sae,
            options={"k": self.l0},
            reads=(POINT,),
            lr=cell.lr,
            seed=cell.seed,
        )
        batch = int(self.data.described["batch_size"])
        fixed = {"coders": (wanted,), "batch_size": batch, "seed": cell.seed, "selection": "float32"}
        config = TrainConfig(**fixed, betas=(self.beta1, 0.999), calibration_tokens=settled)
        coder = saescope.train(config, ExportedStream(self.data, cell.seed), folder / "run")["coder"]
        return coder, {
            "version": saescope.__version__,
            "seconds": coder.metadata.training["seconds"],
            "settings": {"beta1": self.beta1},
        }

    def _theirs(self, cell: Cell, folder: Path) -> tuple[SparseCoder, dict[str, Any]]:
        options = {
            "library": cell.library, "arch": cell.arch, "data": self.data.folder, "reads": POINT, "seed": cell.seed,
            "lr": cell.lr, "d-sae": self.d_sae, "l0": self.l0, "precision": "float32", "beta1": self.beta1,
            "out": folder / "peer",
        }  # fmt: skip
        command = [str(self.python), str(PEERS / "train_peer.py")]
        command += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        environment = os.environ | {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        with (folder / "log.txt").open("w") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=TIMEOUT, check=False
            ).returncode
        if code:
            last = (folder / "log.txt").read_text().strip().splitlines()[-1:]
            raise SystemExit(f"{cell.name} failed: {last[0] if last else code}; see {folder / 'log.txt'}")
        trained = json.loads((folder / "peer" / "cell.json").read_text())
        kept = ("version", "seconds", "settings", "weights_error")
        return self._from_weights(folder / "peer" / "weights.safetensors", trained), {key: trained[key] for key in kept}

    @torch.no_grad()
    def _from_weights(self, path: Path, trained: dict[str, Any]) -> SparseCoder:
        """Their coder in our class; `weights_error` says how well these weights give their reconstruction."""
        weights = load_file(path)
        place = (Slice(point=POINT, width=weights["W_dec"].shape[1]),)
        coder = SparseCoder(
            make_architecture("jumprelu", self.d_sae, {}), place, place, apply_b_dec_to_input=trained["subtracts_b_dec"]
        )
        coder.W_enc_rows.copy_(weights["W_enc"].T)
        for name in ("b_enc", "W_dec", "b_dec"):
            getattr(coder, name).copy_(weights[name])
        coder.extra("threshold").copy_(weights["threshold"])
        return coder.requires_grad_(False)


def best(bench: Bench, library: str, arch: str) -> Cell:
    """The cell of seed 0 at the learning rate with the best F1 + MCC."""
    scores = {cell: score(bench.run(cell)) for cell in (Cell(library, arch, lr, 0) for lr in RATES)}
    for lr in HIGHER:
        if max(scores, key=lambda cell: scores[cell]).lr < max(cell.lr for cell in scores):
            break
        further = Cell(library, arch, lr, 0)
        scores[further] = score(bench.run(further))
    return max(scores, key=lambda cell: scores[cell])


def score(record: dict[str, Any]) -> float:
    """What a learning rate is chosen by."""
    return float(record["f1"] + record["mcc"])


def rows(bench: Bench, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """A summary over seeds of either library and architecture, at its best learning rate."""
    for arch in ARCHS:
        for library in (OURS, THEIRS):
            chosen = best(bench, library, arch)
            records = [bench.run(replace(chosen, seed=seed)) for seed in seeds]
            yield {
                "library": library,
                "version": records[0]["version"],
                "arch": arch,
                "lr": chosen.lr,
                "settings": records[0]["settings"],
                "seeds": seeds,
                "rows": records[0]["rows"],
                "d_sae": bench.d_sae,
                "features": bench.truth.n_features,
                "d_in": bench.truth.directions.shape[1],
                "seconds": round(fmean(record["seconds"] for record in records), 1),
                **{name: fmean(record[name] for record in records) for name in METRICS},
                "intervals": {
                    name: mean_interval(torch.tensor([record[name] for record in records]), resamples=2000, seed=0)
                    for name in METRICS
                },
            }


def controls(bench: Bench) -> Iterator[dict[str, Any]]:
    """The oracle and chance, on the same rows."""
    stream = SyntheticStream(bench.truth, tokens=1, batch_size=1)
    known, encode = oracle(bench.truth, bench.d_sae)
    yield {
        "library": "oracle",
        **recovery(known, bench.truth, stream.measured_rows(MEASURED_ROWS), encode=encode).metrics,
    }
    sample = bench.data.held_out(POINT).take(slice(0, 16384))
    random = chance(bench.truth, bench.d_sae, bench.l0, sample)
    yield {"library": "frozen_random", **recovery(random, bench.truth, stream.measured_rows(MEASURED_ROWS)).metrics}


def table(summaries: list[dict[str, Any]]) -> str:
    lines = ["| | lr | F1 | MCC | EV | L0 | s |", "|---|---|---|---|---|---|---|"]
    for found in summaries:
        name = f"{found['arch']}, {found['library']}" if "arch" in found else found["library"]
        cells = [f"{found['lr']:g}" if "lr" in found else ""]
        for metric in ("f1", "mcc", "explained_variance"):
            between = found.get("intervals", {}).get(metric)
            cells.append(f"{found[metric]:.3f}" + (f" ({between[0]:.3f}–{between[1]:.3f})" if between else ""))
        cells += [f"{found['l0']:.2f}", f"{found['seconds']:.0f}" if "seconds" in found else ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    apart = [abs(found["l0"] / summaries[0]["l0"] - 1) for found in summaries if "arch" in found]
    return "\n".join([*lines, "", f"L0 differs by {max(apart):.2%} at most."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="the peer's interpreter")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--tokens", type=int, default=1_500_000, help="rows that each coder is trained on")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--beta1", type=float, default=0.9, help="Adam's, of both libraries")
    parser.add_argument("--record", type=Path, help="add a JSON line a row of the table there")
    given = parser.parse_args()
    chosen = preset(given.preset)
    truth = GroundTruth.of(chosen.config)
    bench = Bench(given.folder, given.python, truth, chosen.d_sae, round(chosen.l0), given.beta1)
    export(truth, bench.data.folder, given.tokens, given.batch_size, sorted({0, *given.seeds}))
    summaries = [*rows(bench, given.seeds), *controls(bench)]
    print(table(summaries))
    if given.record:
        facts = {"preset": given.preset, "batch_size": given.batch_size, "measured_rows": MEASURED_ROWS,
                 "torch": version("torch"), "threads": torch.get_num_threads()}  # fmt: skip
        with given.record.open("a") as file:
            file.writelines(json.dumps(facts | found) + "\n" for found in summaries)


if __name__ == "__main__":
    main()
