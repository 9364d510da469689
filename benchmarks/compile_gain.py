"""What `torch.compile` gains: the optimiser's update and a whole training step, by torch operators, compiled, and by saescope.

    python benchmarks/compile_gain.py [--d-sae 9216] [--pairs 7]

The update (projection, clipping, Adam, unit rows) is the part of a step made of operators that a compiler can fuse; selection
and sparse products are kernels already, around which it would break the graph. The three take turns; a row says the median
time and the ratio of medians. On a GPU saescope's are the Triton kernels, else those of the processor.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from saescope.bench import Shape, _member, synthetic_batch
from saescope.kernels import AdamStep, Trained, active, reference, sparse, using
from saescope.kernels.dispatch import wait_and_clock
from saescope.kernels.operations import Kernels
from saescope.lm import has_native_bf16

STEP = AdamStep(1e-3, 0.9, 0.999, 0.1, 0.001, 1e-8)
PLAIN = sparse.adam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=576)
    parser.add_argument("--d-sae", type=int, default=9216)
    parser.add_argument("--pairs", type=int, default=7)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compiled = mock.Mock(tangent=torch.compile(reference.tangent, dynamic=False), adam=_adam)
    ours = active(device)
    print(f"torch {torch.__version__}, {device}, saescope's kernels: {ours.name}\n")
    print("| | torch operators, ms | torch.compile, ms | saescope, ms | compile / operators | saescope / compile |")
    print("|---|---|---|---|---|---|")
    updates = [_update(kernels, given.d_sae, given.d_in, device) for kernels in (sparse, compiled, ours)]
    _print("update of one matrix", updates, given.pairs, device)
    shape = Shape(arch="topk", d_in=given.d_in, d_sae=given.d_sae)
    steps = [
        _step(shape, device, sparse, sparse),
        _step(shape, device, sparse, compiled),
        _step(shape, device, ours, ours),
    ]
    _print("step of topk", steps, given.pairs, device)


@torch.compile(dynamic=False)
def _moved(trained: Trained, along: Tensor, scale: Tensor, step: AdamStep) -> None:
    weight, grad, mean, square = trained.weight, trained.grad, trained.mean, trained.square
    g = scale * (grad - along[:, None] * weight)
    mean.copy_(step.beta1 * mean + (1 - step.beta1) * g)
    square.copy_(step.beta2 * square + (1 - step.beta2) * g**2)
    weight.sub_(step.rate * (mean / step.correction1) / ((square / step.correction2).sqrt() + step.eps))


def _adam(trained: Trained, along: Tensor | None, scale: Tensor, step: AdamStep) -> None:
    """`reference.adam`, compiled but for the division by norms, with which torch 2.13's compiler fails on a processor."""
    if along is None or trained.weight.shape[0] == 1:
        PLAIN(trained, along, scale, step)
        return
    # Always the same constants: other ones would be compiled again, each step. What it learns is not looked at here.
    _moved(trained, along, scale, STEP)
    trained.weight.div_(torch.linalg.vector_norm(trained.weight, dim=1, keepdim=True).clamp_(min=1e-8))


def _update(kernels: Kernels, d_sae: int, d_in: int, device: torch.device) -> Callable[[], None]:
    weight, grad, mean, square = (torch.randn(d_sae, d_in, device=device) for _ in range(4))
    weight /= weight.norm(dim=1, keepdim=True)
    trained = Trained(weight, grad, mean, square.square())
    scale = torch.ones((), device=device)

    @torch.no_grad()
    def run() -> None:
        along, _ = kernels.tangent(weight, grad, True)
        kernels.adam(trained, along, scale, STEP)

    return run


def _step(shape: Shape, device: torch.device, kernels: Kernels, update: Kernels) -> Callable[[], None]:
    batch = synthetic_batch(shape).to(device)
    member = _member(shape, batch, device, torch.bfloat16 if has_native_bf16(device) else torch.float32)
    done = iter(range(10**6))

    def run() -> None:
        # The forced implementation is a module: the two functions of the update are swapped in it while it runs.
        with (
            using(kernels.name),
            mock.patch.object(kernels, "tangent", update.tangent),
            mock.patch.object(kernels, "adam", update.adam),
        ):
            member.step(batch, next(done))

    return run


def _print(what: str, runs: list[Callable[[], None]], pairs: int, device: torch.device) -> None:
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(pairs + 2):
        for times, run in zip(seconds, runs, strict=True):
            started = wait_and_clock(device)
            run()
            if turn >= 2:
                times.append(wait_and_clock(device) - started)
    plain, fused, ours = (1e3 * statistics.median(times) for times in seconds)
    print(f"| {what} | {plain:.1f} | {fused:.1f} | {ours:.1f} | {fused / plain:.2f} | {ours / fused:.2f} |")


if __name__ == "__main__":
    main()
