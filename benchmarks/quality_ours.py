"""saescope's own cells: trained through the public API on the batches the other libraries saw, measured by the same code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from exported import Exported
from measure import measure, threshold_for
from torch import Tensor

import saescope
from quality_cells import OURS, Cell
from saescope import CoderConfig, Store, StoreStream, TrainConfig

TOP_K = ("topk", "batchtopk", "matryoshka")


def run(cell: Cell, store: Store, data: Exported, cells: Path, d_sae: int) -> None:
    """Train and measure one cell; nothing is done where it is finished, and an interrupted run goes on."""
    folder = cells / cell.name
    if (folder / "cell.json").exists():
        return
    config = TrainConfig(coders=(coder_config(cell, d_sae),), passes=cell.passes, seed=cell.seed)
    source = StoreStream(store, config.points, batch_size=config.batch_size, seed=config.seed, passes=config.passes)
    coder = saescope.train(config, source, folder / "run")["coder"]
    settings = {"options": config.coders[0].options}
    if cell.arch in ("batchtopk", "matryoshka"):
        settings["threshold_factor"] = settle_threshold(coder, cell, data)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = coder.encode(x)
        return codes.dense(), coder.decode(codes, x)

    measured = measure(data, cell.reads, cell.target, reconstruct)
    np.savez(folder / "documents.npz", **{name: value.numpy() for name, value in measured.sums.items()})
    record = {
        **asdict(cell),
        "writes": cell.target,
        "d_sae": d_sae,
        "version": saescope.__version__,
        "tokens": source.n_steps * config.batch_size,
        "target_l0": cell.l0,
        "l0": measured.l0,
        "fvu_centered": measured.fvu_centered,
        "dead": measured.dead,
        "seconds": coder.metadata.training["seconds"],
        "settings": settings,
        "threads": torch.get_num_threads(),
    }
    (folder / "cell.json").write_text(json.dumps(record, indent=1))
    print(f"{cell.name}: fvu_centered {measured.fvu_centered:.4f}, L0 {measured.l0:.2f}", flush=True)


@torch.no_grad()
def settle_threshold(coder: saescope.SparseCoder, cell: Cell, data: Exported) -> float:
    """As for the other libraries: one number moves the inference threshold so that held-out L0 is what was asked for.

    A folded coder has a threshold per latent, all the same in the units it was trained in; they are scaled together.
    """

    def relative(x: Tensor) -> Tensor:
        pre = coder.centred(x) @ coder.W_enc + coder.b_enc
        return (pre / coder.threshold).relu()

    factor = threshold_for(data, cell.reads, relative, cell.l0)
    coder.threshold.mul_(factor)
    return factor


def coder_config(cell: Cell, d_sae: int) -> CoderConfig:
    return CoderConfig(
        name="coder",
        arch=cell.arch,
        d_sae=d_sae,
        options={"k": round(cell.l0)} if cell.arch in TOP_K else {"l0": cell.l0},
        reads=(cell.reads,),
        writes=(cell.target,) if cell.target != cell.reads else (),
        skip=cell.skip,
        lr=cell.lr,
        seed=cell.seed,
    )


def cells_of(
    archs: list[str], reads: str, writes: str, skip: bool, seeds: list[int], passes: list[float], lrs: list[float],
    l0s: list[float],
) -> Iterator[Cell]:  # fmt: skip
    """Every combination, most wanted first: seed by seed, the longest runs before the shorter ones."""
    for seed in seeds:
        for share in sorted(passes, reverse=True):
            for arch in archs:
                for lr in lrs:
                    for l0 in l0s:
                        yield Cell(OURS, arch, reads, lr, writes, share, seed, l0, skip)


def default_lr(d_sae: int) -> float:
    """What saescope trains with when nobody chooses."""
    return float(f"{CoderConfig(name='coder', d_sae=d_sae, reads=('x',)).learning_rate:.4g}")
