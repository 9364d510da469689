"""Which cells of the peers are run, in which order: first one of each, then learning rates, then seeds and points.

Cells that depend on others' results (the best learning rate, the coefficient that gives the L0) are made when those are in.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from quality_cells import Cell, Finished

RESID, MLP_IN, MLP_OUT = "resid_post.14", "mlp_in.14", "mlp_out.14"
FIRST_LR = 1e-3
SEEDS = (0, 1, 2)
# Of the library that comes nearest to saescope, whose interval of three seeds met saescope's.
MORE_SEEDS = (3, 4)
# sparsify's default optimiser and its rate, 5e-3·sqrt(2^14 / d_sae); the other choice is Adam at the common rates.
SIGNUM = {"optimizer": "signum", "lr": 5e-3 * (2**14 / 9216) ** 0.5}
ADAM = {"optimizer": "adam", "lr": FIRST_LR}

# Where the search for a coefficient begins: the libraries' tutorials and demos, and nearer where these are far off (SAELens's 5
# ends at an L0 of 737 for standard and 851 for gated after a quarter pass).
FIRST_COEFFICIENT = {
    ("sae_lens", "jumprelu"): 5.0,
    ("sae_lens", "gated"): 12.0,
    ("sae_lens", "standard"): 10.8,
    ("dictionary_learning", "gated"): 0.1,
    ("dictionary_learning", "standard"): 0.03,
}
MOST_TRIES, NEAR_ENOUGH, LARGEST_STEP = 3, 0.05, math.log(4)
TIMEOUT = 3600
# glibc hands every block of a batch's size back to the system and takes it anew, page by page: two fifths of these libraries'
# time on a CPU. It keeps them with this; the numbers are the same.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def queue(cells: Finished) -> Iterator[Cell]:
    """All cells in order of usefulness. Finished ones come too; the runner skips them."""
    both = ("dictionary_learning", "sae_lens")
    topk = [Cell("sparsify", "topk", RESID, **ADAM), Cell("sparsify", "topk", RESID, **SIGNUM)]
    yield from topk
    # Every architecture once, on one point.
    yield from (
        Cell(library, arch, RESID, FIRST_LR) for arch in ("topk", "batchtopk", "matryoshka") for library in both
    )
    yield from _at_l0(cells, Cell("sae_lens", "standard", RESID, FIRST_LR))
    yield from _at_l0(cells, Cell("sae_lens", "jumprelu", RESID, FIRST_LR))
    # The other point and the skip transcoder, by the rule that every token has k.
    sparsify = _best(cells, topk)
    yield replace(sparsify, reads=MLP_OUT)
    yield from (Cell(library, "topk", MLP_OUT, FIRST_LR) for library in both)
    yield replace(sparsify, reads=MLP_IN, writes=MLP_OUT, skip=True)

    # Whether a lower rate is better, then the spread over seeds, at the better rate.
    other_rates = [replace(topk[1], lr=3e-3), replace(topk[0], lr=3e-4)]
    yield from (Cell(library, "topk", RESID, 3e-4) for library in both)
    yield from other_rates
    sparsify = _best(cells, [*topk, *other_rates])
    best = {library: _best(cells, [Cell(library, "topk", RESID, lr) for lr in (FIRST_LR, 3e-4)]) for library in both}
    for seed in SEEDS:
        yield replace(sparsify, seed=seed)
        yield from (replace(best[library], seed=seed) for library in both)
    yield from _at_l0(cells, Cell("sae_lens", "gated", RESID, FIRST_LR))
    for arch in ("standard", "jumprelu", "gated"):
        yield from _at_l0(cells, Cell("dictionary_learning", arch, RESID, FIRST_LR))

    # More of the same: seeds of the nearest library and of the other rules, three passes, the other point.
    yield from (replace(sparsify, seed=seed) for seed in MORE_SEEDS)
    yield from (replace(sparsify, reads=MLP_OUT, seed=seed) for seed in SEEDS)
    for arch in ("batchtopk", "matryoshka"):
        yield from (replace(best[library], arch=arch, seed=seed) for seed in SEEDS for library in both)
    yield from (replace(sparsify, seed=seed, passes=3) for seed in SEEDS)
    # Every architecture at the other point, then seeds of all that is left, an architecture after the other. Where there is a
    # penalty, at the coefficient whose L0 was nearest at the first point; saescope is measured at the L0 that comes of it.
    penalised = [_nearest(cells, one) for library in both for one in _penalised(library)]
    by_k = [replace(best[library], arch=arch) for arch in ("topk", "batchtopk", "matryoshka") for library in both]
    there = [replace(cell, reads=MLP_OUT) for cell in (*by_k, *penalised)]
    yield from there
    yield from (replace(cell, seed=seed) for cell in (*penalised, *there) for seed in SEEDS)
    # Three passes, of which each cell costs half an hour: every architecture once at both points before any second seed.
    thrice = [replace(cell, passes=3) for cell in (*by_k, *penalised, replace(sparsify, reads=MLP_OUT), *there)]
    yield from (replace(cell, seed=seed) for seed in SEEDS for cell in thrice)


def run(cells: Finished, data: Path, python: Path, script: Path, libraries: list[str], until: float | None) -> None:
    """Run what is not finished of these libraries, one process at a time; no cell starts after `until` (seconds since the
    epoch)."""
    for cell in queue(cells):
        folder = cells.folder / cell.name
        if cell.library not in libraries or cells.result(cell) is not None or (folder / "failed.json").exists():
            continue
        if until is not None and time.time() > until:
            print("the time is over", flush=True)
            return
        print(f"{time.strftime('%H:%M:%S')} {cell.name}", flush=True)
        _run_one(cell, folder, [str(python), str(script), *_arguments(cell), "--data", str(data), "--out", str(folder)])


def _run_one(cell: Cell, folder: Path, command: list[str]) -> None:
    """One cell; the peer's output goes to the folder's log, a failure's reason to failed.json."""
    folder.mkdir(parents=True, exist_ok=True)
    offline = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "SPARSIFY_DISABLE_TRITON": "1"}
    environment = os.environ | KEEP_MEMORY | offline
    with (folder / "log.txt").open("w") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, timeout=TIMEOUT
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    last = (folder / "log.txt").read_text().strip().splitlines()[-1:]
    print(f"{time.strftime('%H:%M:%S')}   {last[0] if last else ''}", flush=True)
    if code:
        reason = last[0] if code > 0 and last else f"longer than {TIMEOUT} s"
        (folder / "failed.json").write_text(json.dumps({"cell": cell.name, "reason": reason}))


def _arguments(cell: Cell) -> list[str]:
    given = {
        "library": cell.library,
        "arch": cell.arch,
        "reads": cell.reads,
        "writes": cell.target,
        "passes": cell.passes,
        "seed": cell.seed,
        "lr": cell.lr,
        "l0": round(cell.l0),
        "coefficient": cell.coefficient,
        "optimizer": cell.optimizer,
    }
    options = [part for name, value in given.items() if value is not None for part in (f"--{name}", str(value))]
    return [*options, "--skip"] if cell.skip else options


def _best(cells: Finished, candidates: list[Cell]) -> Cell:
    """The finished candidate with the lowest held-out error; the first while none is finished."""
    found = {cell: done.fvu for cell in candidates if (done := cells.result(cell)) is not None}
    return min(found, key=lambda cell: found[cell]) if found else candidates[0]


def _at_l0(cells: Finished, cell: Cell) -> Iterator[Cell]:
    """The cell at one coefficient after another, until one comes near the L0.

    Each is a whole run: under a penalty L0 still moves after a quarter of it, by a factor of a hundred in SAELens's.
    """
    if (cell.library, cell.arch) not in FIRST_COEFFICIENT:
        yield cell
        return
    tried: dict[float, float] = {}
    coefficient = FIRST_COEFFICIENT[cell.library, cell.arch]
    while coefficient not in tried and len(tried) < MOST_TRIES:
        one = replace(cell, coefficient=coefficient)
        yield one
        if (found := cells.result(one)) is None:
            return
        # How many times too large L0 is, as a logarithm; a run in which nothing fires is only known to be too sparse.
        tried[coefficient] = math.log(max(found.l0, 0.1) / cell.l0)
        coefficient = float(f"{next_coefficient(tried):.3g}")


def _penalised(library: str) -> list[Cell]:
    return [Cell(library, arch, RESID, FIRST_LR) for arch in ("jumprelu", "gated", "standard")]


def _nearest(cells: Finished, cell: Cell) -> Cell:
    """The cell at the coefficient, of all that were run, whose L0 was nearest to what is wanted; without one while none was."""
    found = {
        record["coefficient"]: abs(math.log(max(record["l0"], 0.1) / cell.l0))
        for record in (done.record for done in cells.results())
        if all(record[name] == getattr(cell, name) for name in ("library", "arch", "reads", "lr", "passes", "seed"))
    }
    return replace(cell, coefficient=min(found, key=lambda one: found[one])) if found else cell


def next_coefficient(tried: dict[float, float]) -> float:
    """Where L0 should be as wanted: between the nearest coefficients on both sides by the logarithms, L0 being about a power
    of it; the best one again where it is near enough."""
    best = min(tried, key=lambda one: abs(tried[one]))
    if abs(tried[best]) < NEAR_ENOUGH:
        return best
    dense = max((one for one in tried if tried[one] > 0), default=None)
    sparse = min((one for one in tried if tried[one] <= 0), default=None)
    if dense is None or sparse is None:
        return best * math.exp(min(LARGEST_STEP, max(-LARGEST_STEP, tried[best])))
    # Not close to an end: a curve that bends would creep.
    share = min(0.85, max(0.15, tried[dense] / (tried[dense] - tried[sparse])))
    return math.exp(math.log(dense) + share * math.log(sparse / dense))
