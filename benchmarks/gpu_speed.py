"""Everything about speed on a GPU in one command of some minutes: kernels, whole steps, other libraries.

    python benchmarks/gpu_speed.py [--python PEER_PYTHON] [--d-in 2304] [--d-sae 65536] [--k 64] [--batch-size 16384]
        [--device cuda] [--record benchmarks/results/gpu_speed.jsonl]

First the limits of this device, measured: a bfloat16 matrix product in FLOP/s, a copy in bytes/s. Then each operation on
random codes of the shape: its time, its FLOPs and the bytes that it must move at least (`kernels/cuda.py` counts them), and
which share of the limit it reaches. Then whole steps beside the bare encoder product, as `saescope bench` does. Then, with the
interpreter of an environment that has them (see `quality.py`), SAELens and sparsify in turns with saescope (`speed_vs_peers.py`
on synthetic rows). With `--device cpu` it runs too, which is how it is tried without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from saescope.bench import Shape, time_steps

# isort: split
import torch

from saescope.kernels import AdamStep, Encoding, Support, Trained, active
from saescope.kernels.dispatch import wait_and_clock

LONG = 2**28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--d-sae", type=int, default=65536)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16384)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--python", help="of an environment with the other libraries")
    parser.add_argument("--record", help="append the comparison's rows as JSON lines there")
    parser.add_argument("--archs", default="topk,batchtopk,matryoshka")
    parser.add_argument("--pairs", type=int, default=9)
    given = parser.parse_args()
    device = torch.device(given.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    kernels = active(device)
    print(f"{where}, torch {torch.__version__}, kernels {kernels.name}")
    tokens, width, latents, n = given.batch_size, given.d_in, given.d_sae, given.batch_size * given.k

    x = torch.randn(tokens, width, device=device, dtype=torch.bfloat16)
    weight = torch.randn(latents, width, device=device, dtype=torch.bfloat16)
    product = _seconds(lambda: x @ weight.T, device)
    flops = 2 * tokens * width * latents / product
    long = torch.empty(LONG if device.type == "cuda" else LONG // 64, dtype=torch.uint8, device=device)
    target = torch.empty_like(long)
    bandwidth = 2 * long.numel() / _seconds(lambda: target.copy_(long), device)
    print(f"limits: {flops / 1e12:.1f} TFLOP/s in the encoder's product, {bandwidth / 1e9:.0f} GB/s in a copy\n")
    del long, target

    generator = torch.Generator(device=device).manual_seed(0)
    # Some latents fire often and most rarely, as in a trained coder; those of a token are distinct and ascending.
    weights = 1 / torch.arange(1, latents + 1, device=device, dtype=torch.float32)
    drawn = [weights.expand(64, -1).multinomial(given.k, generator=generator) for _ in range(-(-tokens // 64))]
    indices = torch.cat(drawn)[:tokens].sort(dim=1).values.flatten()
    support = Support(torch.arange(0, n + 1, given.k, device=device), indices, latents)
    values = torch.rand(n, device=device, generator=generator)
    rows = torch.randn(tokens, width, device=device)
    table = torch.nn.functional.normalize(torch.randn(latents, width, device=device), dim=1)
    moments = torch.zeros(2, latents, width, device=device)
    gradient = torch.randn_like(table)
    pre = Encoding(rows, table, torch.zeros(latents, device=device))
    adam = AdamStep(1e-4, 0.9, 0.999, 0.1, 0.001, 1e-8)
    one = torch.ones((), device=device)
    d = 4 * width

    def update() -> None:
        along, _ = kernels.tangent(table, gradient, True)
        kernels.adam(Trained(table, gradient, moments[0], moments[1]), along, one, adam)

    seen = int(indices.unique().numel())
    operations: dict[str, tuple[Callable[[], object], float, float]] = {
        "topk, product inside": (
            lambda: kernels.select_topk(pre, given.k, dtype=torch.bfloat16),
            2.0 * tokens * width * latents,
            2.0 * (tokens + latents) * width + 4.0 * tokens * latents,
        ),
        "batch topk, product inside": (
            lambda: kernels.select_batch_topk(pre, n, dtype=torch.bfloat16),
            2.0 * tokens * width * latents,
            2.0 * (tokens + latents) * width + 4.0 * tokens * latents,
        ),
        "decode": (lambda: kernels.decode(support, values, table), 2.0 * n * width, seen * d + 12 * n + tokens * d),
        "sampled product": (
            lambda: kernels.sampled_product(support, rows, table),
            2.0 * n * width,
            seen * d + 12 * n + tokens * d,
        ),
        "weight gradient": (
            lambda: kernels.weight_gradient(support, values, rows),
            2.0 * n * width,
            tokens * d + 48 * n + latents * d,
        ),
        "projection, Adam, unit rows": (update, 30.0 * latents * width, 9.0 * latents * d),
    }
    print("| operation | ms | GFLOP | MB at least | of the product's FLOP/s | of the copy's bytes/s |")
    print("|---|---|---|---|---|---|")
    for name, (run, operation_flops, operation_bytes) in operations.items():
        seconds = _seconds(run, device)
        print(
            f"| {name} | {seconds * 1e3:.2f} | {operation_flops / 1e9:.1f} | {operation_bytes / 1e6:.0f} | "
            f"{operation_flops / seconds / flops:.0%} | {operation_bytes / seconds / bandwidth:.0%} |"
        )
    print()
    del rows, table, moments, gradient, pre
    steps(given, device)
    if given.python:
        beside_others(given)


def steps(given: argparse.Namespace, device: torch.device) -> None:
    width, latents, tokens = given.d_in, given.d_sae, given.batch_size
    for arch in given.archs.split(","):
        found = time_steps(Shape(arch, width, latents, given.k, tokens), pairs=given.pairs, device=device)
        ratios = found.ratios
        print(
            f"{arch}: step {found.step * 1e3:.1f} ms, {found.tokens_per_second:,.0f} tokens/s, "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times the bare product of "
            f"{found.product * 1e3:.1f} ms"
        )
        for stage, seconds in found.stages.items():
            print(f"    {seconds * 1e3:8.2f} ms  {stage}")


def beside_others(given: argparse.Namespace) -> None:
    shape = {"synthetic": given.d_in, "d-sae": given.d_sae, "k": given.k, "batch-size": given.batch_size}
    options = [word for name, value in shape.items() for word in (f"--{name}", str(value))]
    options += ["--device", given.device, "--cases", "topk", "--peers", "sae_lens,sparsify", "--python", given.python]
    options += ["--record", given.record] if given.record else []
    print(flush=True)
    if given.device == "cuda":
        torch.cuda.empty_cache()
    subprocess.run([sys.executable, str(Path(__file__).parent / "speed_vs_peers.py"), *options], check=True)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Median of seven after two."""
    times = []
    for _ in range(9):
        started = wait_and_clock(device)
        run()
        times.append(wait_and_clock(device) - started)
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
