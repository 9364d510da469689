"""What one setting of training is worth: held-out error of a run that changes it, everything else by default.

    python benchmarks/training_ablation.py STORE [--arch topk] [--passes 1] [--lr …] [--batch-size …]
                                           [--set NAME=VALUE …] [--option NAME=VALUE …]

Trains one coder (d_sae 9,216, L0 32) on a store's activations and prints, for all held-out rows: fvu_centered, L0, the share
of latents that never fire there, and the seconds it took. docs/training.md has the rows that the defaults were chosen by.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch
import yaml
from torch import Tensor

import saescope
from saescope.training import resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--arch", default="topk")
    parser.add_argument("--point", default="resid_post.14")
    parser.add_argument("--d-sae", type=int, default=9216)
    parser.add_argument("--l0", type=float, default=32)
    parser.add_argument("--passes", type=float, default=1)
    parser.add_argument("--batch-size", type=int, help="default: from the number of tokens")
    parser.add_argument("--lr", type=float, help="default: from width and steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the run")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="one of the architecture")
    given = parser.parse_args()
    store = saescope.Store.open(given.store)
    config = resolve(
        None,
        {"passes": given.passes, "batch_size": given.batch_size, "seed": given.seed} | pairs(given.set),
        {"d_sae": given.d_sae, "lr": given.lr, "options": pairs(given.option)},
        archs=[given.arch],
        l0s=[given.l0],
        reads=given.point,
        available=store.point_names,
        rows=sum(store.shard_rows("train")),
    )
    source = saescope.StoreStream(
        store, config.points, batch_size=config.batch_size, seed=config.seed, passes=config.passes
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        (coder,) = saescope.train(config, source, folder).values()
        seconds = time.perf_counter() - started
    fvu, l0, dead = measured(coder, source.held_out_rows(2**20).float())
    changed = " ".join(given.set + given.option) or "defaults"
    print(
        f"{given.arch}, {source.n_steps} steps of {config.batch_size}, lr {given.lr or 'default'}, {changed}: "
        f"held-out fvu_centered {fvu:.4f}, L0 {l0:.2f}, never fired {dead:.1%}, {seconds:.0f} s"
    )


def pairs(given: list[str]) -> dict[str, Any]:
    return {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in given)}


@torch.no_grad()
def measured(coder: saescope.SparseCoder, x: Tensor) -> tuple[float, float, float]:
    """fvu_centered, L0 and the share of silent latents on raw rows."""
    error, active, fired = 0.0, 0, torch.zeros(coder.d_sae, dtype=torch.bool, device=x.device)
    for rows in x.split(4096):
        codes = coder.encode(rows)
        error += float((rows - coder.decode(codes)).double().pow(2).sum())
        active += codes.nnz
        fired[codes.indices] = True
    spread = float((x - x.mean(0)).double().pow(2).sum())
    return error / spread, active / x.shape[0], 1 - float(fired.float().mean())


if __name__ == "__main__":
    main()
