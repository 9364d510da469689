"""How fast a coder trains here, and how far that is from the limit: the bare encoder product of an exact method.

    python benchmarks/training_speed.py [--d-in 576] [--d-sae 9216] [--l0 32] [--batch-size 4096]

Times whole optimiser steps on random activations, alternating with the bare product so that a busy machine slows both, and
prints medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from saescope.lm import has_native_bf16
from saescope.training import CoderConfig, TrainConfig
from saescope.training.member import Member


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=576)
    parser.add_argument("--d-sae", type=int, default=9216)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="also print the operations of one step")
    given = parser.parse_args()
    device = torch.device("cpu")
    selection = torch.bfloat16 if has_native_bf16(device) else torch.float32
    generator = torch.Generator().manual_seed(0)
    # Sparse sums of random directions: selection and firing behave as on real activations, unlike on white noise.
    directions = torch.randn(given.d_sae // 4, given.d_in, generator=generator)
    chosen = torch.randint(0, given.d_sae // 4, (given.batch_size, 20), generator=generator)
    batch = directions[chosen].sum(1).bfloat16()
    moments = {"x": (batch.float().mean(0), float((batch.float() - batch.float().mean(0)).pow(2).sum(1).mean()))}
    weight = torch.randn(given.d_sae, given.d_in, generator=generator).to(selection)
    x = batch.to(selection)

    for arch in ("batchtopk", "matryoshka"):
        coder = CoderConfig(name=arch, arch=arch, d_sae=given.d_sae, options={"k": given.k}, reads=("x",))
        run = TrainConfig(coders=(coder,), batch_size=given.batch_size)
        member = Member(coder, run, {"x": slice(0, given.d_in)}, moments, 1000, device, selection)
        for step in range(3):
            member.step(batch, step)
        steps, products = [], []
        for pair in range(given.pairs):
            started = time.perf_counter()
            member.step(batch, 3 + pair)
            steps.append(time.perf_counter() - started)
            started = time.perf_counter()
            x @ weight.T
            products.append(time.perf_counter() - started)
        step, product = statistics.median(steps), statistics.median(products)
        ratios = sorted(a / b for a, b in zip(steps, products, strict=True))
        print(
            f"{arch}: {given.batch_size / step:,.0f} tokens/s; step {step * 1e3:.0f} ms, bare {str(selection)[6:]} product "
            f"{product * 1e3:.0f} ms, ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
        if given.profile:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                member.step(batch, 50)
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=22))


if __name__ == "__main__":
    main()
