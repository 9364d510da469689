"""saescope's own cells: trained through the public API on the batches the other libraries saw, measured by the same code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from exported import Exported
from measure import measure
from torch import Tensor

import saescope
from quality_cells import OURS, Cell
from saescope import CoderConfig, Store, StoreStream, TrainConfig
from saescope.training.defaults import peak_lr

# As every library here; saescope itself would choose smaller ones for short runs.
BATCH = 4096
TOP_K = ("topk", "batchtopk", "matryoshka")


def run(cell: Cell, store: Store, data: Exported, cells: Path, d_sae: int) -> None:
    """Train and measure one cell; nothing is done where it is finished, and an interrupted run goes on."""
    folder = cells / cell.name
    if (folder / "cell.json").exists():
        return
    config = TrainConfig(coders=(coder_config(cell, d_sae),), batch_size=BATCH, passes=cell.passes, seed=cell.seed)
    source = StoreStream(store, config.points, batch_size=config.batch_size, seed=config.seed, passes=config.passes)
    coder = saescope.train(config, source, folder / "run")["coder"]
    settings = {"options": config.coders[0].options}

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        codes = coder.encode(x)
        return codes.dense(), coder.decode(codes, x)

    measured = measure(data, cell.reads, cell.target, reconstruct)
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
    l0s: list[float], rows: int, d_sae: int,
) -> Iterator[Cell]:  # fmt: skip
    """Every combination, most wanted first: seed by seed, the longest runs before the shorter ones."""
    for seed in seeds:
        for share in sorted(passes, reverse=True):
            for arch in archs:
                for lr in lrs or [default_lr(d_sae, int(rows * share) // BATCH)]:
                    for l0 in l0s:
                        yield Cell(OURS, arch, reads, lr, writes, share, seed, l0, skip)


def default_lr(d_sae: int, n_steps: int) -> float:
    """What saescope trains with when nobody chooses."""
    return float(f"{peak_lr(d_sae, n_steps):.3g}")
