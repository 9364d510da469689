"""Train one coder with another library, on exported rows, and measure it on the held-out ones.

    PEER_PYTHON train_peer.py --library sparsify --arch topk --data DIR --reads POINT --seed 0 --lr 1e-3 --out CELL

Runs in the peer's own environment: besides that library it needs torch, numpy and safetensors. Writes CELL/weights.safetensors,
then CELL/cell.json. `of_*.py` say how each library is driven and with which settings.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from exported import Exported
from measure import measure, threshold_for
from safetensors.torch import save_file
from trained import Task, Trained

PACKAGES = {"sae_lens": "sae-lens", "dictionary_learning": "dictionary-learning", "sparsify": "eai-sparsify"}
SETTLED = ("batchtopk", "matryoshka")
TOLERANCE = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=sorted(PACKAGES), required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--reads", required=True)
    parser.add_argument("--writes", help="default: what it reads")
    parser.add_argument("--skip", action="store_true", help="a linear skip connection")
    parser.add_argument("--passes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--d-sae", type=int, default=9216)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--coefficient", type=float, help="of the sparsity penalty, where there is one")
    parser.add_argument("--optimizer", help="where the library offers several")
    parser.add_argument(
        "--precision", choices=("bfloat16", "float32"), default="bfloat16", help="SAELens only: autocast or none"
    )
    parser.add_argument("--beta1", type=float, default=0.9, help="Adam's; SAELens only")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    shape = {name: value for name, value in vars(given).items() if name not in ("data", "out")}
    task = Task(**shape | {"writes": given.writes or given.reads})
    run(task, Exported(given.data), given.out)


def run(task: Task, data: Exported, out: Path) -> None:
    torch.manual_seed(task.seed)
    started = time.perf_counter()
    trained = importlib.import_module(f"of_{task.library}").train(task, data)
    seconds = time.perf_counter() - started
    if task.arch in SETTLED:
        settle_threshold(trained, task, data)
    measured = measure(data, task.reads, task.writes, trained.reconstruct)
    error = formula_error(trained, task, data)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach().float().contiguous() for name, value in trained.weights.items()},
        out / "weights.safetensors",
    )
    cell = {
        **asdict(task),
        "version": version(PACKAGES[task.library]),
        "tokens": data.steps(task.passes) * data.described["batch_size"],
        "target_l0": task.l0,
        "l0": measured.l0,
        "fvu_centered": measured.fvu_centered,
        "dead": measured.dead,
        "seconds": round(seconds, 1),
        "selection": trained.selection,
        "subtracts_b_dec": trained.subtracts_b_dec,
        "weights_error": error,
        "settings": trained.settings,
        "threads": torch.get_num_threads(),
    }
    (out / "cell.json").write_text(json.dumps(cell, indent=1))
    print(f"fvu_centered {measured.fvu_centered:.4f}, L0 {measured.l0:.2f}, dead {measured.dead:.3f}, {seconds:.0f} s")
    if error > TOLERANCE:
        raise SystemExit(f"the saved weights reconstruct otherwise than the library: relative error {error:.1e}")


def settle_threshold(trained: Trained, task: Task, data: Exported) -> None:
    """BatchTopK's L0 at inference depends on one threshold; set it so that all libraries are compared at the same L0."""
    assert trained.set_threshold is not None
    trained.settings["threshold_as_trained"] = float(trained.weights["threshold"].flatten()[0])
    w = trained.weights
    threshold = threshold_for(data, task.reads, lambda x: ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu(), task.l0)
    trained.set_threshold(threshold)
    trained.weights["threshold"] = torch.full((task.d_sae,), threshold)


@torch.no_grad()
def formula_error(trained: Trained, task: Task, data: Exported) -> float:
    """Relative difference between the library's reconstruction and that of the saved weights: the 99th percentile of rows.

    Rounding may decide a tie between two latents differently in a few rows, which says nothing of the weights.
    """
    x = data.held_out(task.reads).take(slice(0, 2048))
    theirs = trained.reconstruct(x)[1]
    difference = (trained.by_formula(x, task.l0) - theirs).norm(dim=1) / theirs.norm(dim=1)
    return float(difference.quantile(0.99))


if __name__ == "__main__":
    main()
