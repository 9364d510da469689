"""How well contrastive labels predict where features fire, beside what a label can score without saying anything.

    python benchmarks/label_quality.py INDEX [--features 200] [--split section|document] [--record FILE.jsonl]

Features are spread evenly over how often they fire. On the same held-out windows (positives by energy, as many silent ones,
half of these neighbours) it measures the balanced accuracy of each feature's own label, of another feature's, and of the
commonest token alone, with 95 % intervals over features. `--all` labels every live feature and says how long that took.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from saescope.features import FeatureIndex, spread_over_densities
from saescope.features.labels import Label, contrastive_labels

RESAMPLES = 10_000
COLUMNS = {"own": "its own label", "top_token": "commonest token", "random_label": "another's label"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index")
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--split", default="section")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="label every live feature too, for the time")
    parser.add_argument("--record", type=Path, help="add the result to this file, a JSON line")
    given = parser.parse_args()
    index = FeatureIndex.open(given.index)
    chosen = spread_over_densities(torch.from_numpy(index.density), given.features)
    # The first call compiles, or reads what was compiled.
    contrastive_labels(index, chosen[:2])
    table = contrastive_labels(index, chosen, seed=given.seed, split=given.split)
    found = measured(table.labels, index.density)
    found |= {"split": given.split, "seed": given.seed, "index": described(index)}
    if given.all:
        wall, own = time.perf_counter(), time.process_time()
        labels = contrastive_labels(index, seed=given.seed, split=given.split)
        found["all"] = {
            "features": len(labels),
            "seconds": round(time.perf_counter() - wall, 2),
            "processor_seconds": round(time.process_time() - own, 2),
            "threads": torch.get_num_threads(),
        }
    show(found)
    if given.record:
        given.record.parent.mkdir(parents=True, exist_ok=True)
        with given.record.open("a") as file:
            file.write(json.dumps(found) + "\n")


def measured(labels: tuple[Label, ...], density: np.ndarray) -> dict[str, Any]:
    """Means with intervals, over all features and over thirds by density, and the paired gain over the commonest token."""
    scored = [label for label in labels if label.score is not None]
    values = {
        name: np.array([label.score if name == "own" else label.controls[name] for label in scored], float)
        for name in COLUMNS
    }
    thirds = np.array_split(np.argsort([density[label.feature] for label in scored], kind="stable"), 3)
    groups = {
        "all": np.arange(len(scored)),
        "rarest third": thirds[0],
        "middle": thirds[1],
        "commonest third": thirds[2],
    }
    found: dict[str, Any] = {"labels": len(labels), "scored": len(scored), "groups": {}}
    for group, rows in groups.items():
        found["groups"][group] = {name: mean_of(own[rows]) for name, own in values.items()}
        found["groups"][group]["gain"] = mean_of((values["own"] - values["top_token"])[rows])
    found["better_than_top_token"] = float((values["own"] > values["top_token"]).mean())
    found["overstated_by"] = float(np.mean([label.parts["fit"] - label.score for label in scored]))
    return found


def mean_of(values: np.ndarray) -> dict[str, Any]:
    drawn = values[np.random.default_rng(0).integers(values.size, size=(RESAMPLES, values.size))].mean(1)
    return {"mean": float(values.mean()), "interval": [float(bound) for bound in np.quantile(drawn, [0.025, 0.975])]}


def described(index: FeatureIndex) -> dict[str, Any]:
    coder = index.manifest.coder
    return {
        "coder": coder.name,
        "architecture": coder.architecture,
        "reads": coder.reads,
        "d_sae": coder.d_sae,
        "tokens": index.n_tokens,
        "live": index.manifest.counts.live,
        "cores": os.cpu_count(),
    }


def show(found: dict[str, Any]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("features", *COLUMNS.values(), "own less token"):
        table.add_column(heading, no_wrap=True)
    for group, row in found["groups"].items():
        table.add_row(group, *(cell(row[name]) for name in (*COLUMNS, "gain")))
    console = Console(highlight=False, width=120)
    console.print(table)
    console.print(
        f"{found['scored']} of {found['labels']} features scored; better than the commonest token: "
        f"{found['better_than_top_token']:.0%}; accuracy where labels were found is higher by {found['overstated_by']:.3f}."
    )
    if "all" in found:
        every = found["all"]
        console.print(
            f"All {every['features']:,} live features in {every['seconds']} s "
            f"({every['processor_seconds']} s of processor time, {every['threads']} threads)."
        )


def cell(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
