"""Whether the learning rate that a run gets by default is right at any length, where rows cost nothing: on generated ones.

    python benchmarks/training_length.py [--tokens 1e5,1e6,1e7] [--factors 0.25,0.5,1,2,4] [--arch topk] [--preset small]
        [--batch-size N] [--device cpu] [--record benchmarks/results/training_length.jsonl]

For every number of tokens, coders of the preset's width and L0 are trained side by side on the same batches, at the default
peak learning rate times each factor, all else by default, and measured on held-out rows: fvu_centered, L0, the share of latents
that never fire there, and the latents' mean largest cosine with a known feature. No row comes twice. The last line of each
length says which factor has the lowest error and what the default's is above it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import saescope
from saescope.coders import architecture_type
from saescope.evaluation.matching import nearest
from saescope.evaluation.synthetic import POINT, PRESETS, GroundTruth, SyntheticStream, preset
from saescope.training import CoderConfig, TrainConfig
from saescope.training.defaults import batch_size, peak_lr
from training_ablation import measured

HELD_OUT = 2**16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=_numbers, default=[1e5, 1e6, 1e7])
    parser.add_argument("--factors", type=_numbers, default=[0.25, 0.5, 1, 2, 4])
    parser.add_argument("--arch", default="topk")
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    parser.add_argument("--batch-size", type=int, help="default: saescope's own for that many tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="append a JSON line a coder there")
    given = parser.parse_args()
    chosen = preset(given.preset)
    truth = GroundTruth.of(chosen.config, given.device)
    where = torch.cuda.get_device_name() if given.device.startswith("cuda") else given.device
    print(f"{given.arch}, preset {given.preset}, {where}", flush=True)
    for tokens in map(int, given.tokens):
        lines = list(run(given, truth, chosen.d_sae, chosen.l0, tokens))
        best = min(lines, key=lambda line: line["fvu_centered"])
        default = [line for line in lines if line["factor"] == 1]
        for line in lines:
            print(" ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "arch"), flush=True)
            if given.record:
                with given.record.open("a") as file:
                    kept = {"preset": given.preset, "seed": given.seed, "device": where, "torch": torch.__version__}
                    file.write(json.dumps(line | kept) + "\n")
        if default:
            above = default[0]["fvu_centered"] / best["fvu_centered"] - 1
            print(f"    lowest at {best['factor']:g} times the default, which is {above:.1%} above it\n", flush=True)


def run(given: argparse.Namespace, truth: GroundTruth, d_sae: int, l0: float, tokens: int) -> Iterator[dict[str, Any]]:
    """A line for each factor."""
    batch = given.batch_size or batch_size(tokens)
    source = SyntheticStream(truth, tokens=tokens, batch_size=batch, seed=given.seed)
    option = architecture_type(given.arch, trainable=True).l0_option
    default = peak_lr(d_sae, source.n_steps)
    coders = [
        CoderConfig(
            name=f"times-{factor:g}".replace(".", "_"),
            arch=given.arch,
            d_sae=d_sae,
            options={option: l0},
            reads=(POINT,),
            lr=factor * default,
            seed=given.seed,
        )
        for factor in given.factors
    ]
    config = TrainConfig(coders=tuple(coders), batch_size=batch, passes=1, seed=given.seed)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        trained = saescope.train(config, source, folder, device=given.device)
        seconds = time.perf_counter() - started
    rows = source.held_out_rows(HELD_OUT).to(truth.device)
    for factor, coder in zip(given.factors, trained.values(), strict=True):
        fvu, active, dead = measured(coder.to(truth.device), rows)
        cosine = float(nearest(coder.W_dec.detach(), truth.directions).cosine.mean())
        yield {
            "arch": given.arch, "tokens": tokens, "steps": source.n_steps, "batch": batch, "factor": factor,
            "lr": factor * default, "fvu_centered": fvu, "l0": active, "dead": dead, "cosine": cosine,
            "seconds_of_all": seconds,
        }  # fmt: skip


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
