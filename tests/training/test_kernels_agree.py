"""Training with any kernels ends within noise of the dense reference: the same data, three seeds."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from saescope.coders import architecture_names
from saescope.kernels import IMPLEMENTATIONS, using
from saescope.training import CoderConfig, TrainConfig
from saescope.training.member import Member

D_IN, D_SAE, L0, BATCH, STEPS = 24, 96, 4, 256, 120
SEEDS = (0, 1, 2)


def planted(n: int, seed: int) -> Tensor:
    """Rows that are sums of four of 64 unit directions, with strengths."""
    directions = torch.nn.functional.normalize(torch.randn(64, D_IN, generator=torch.Generator().manual_seed(9)), dim=1)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(n, 64, generator=generator).topk(4, dim=1).indices
    strength = 0.5 + torch.rand(n, 4, generator=generator)
    return (directions[chosen] * strength[..., None]).sum(1)


@cache
def held_out_error(kernels: str, arch: str, seed: int, selection: torch.dtype) -> float:
    # Training on tensors in Triton's interpreter takes minutes, so the GPU's kernels train where there is one.
    device = torch.device("cuda" if kernels == "cuda" else "cpu")
    option = "k" if arch in ("topk", "batchtopk", "matryoshka") else "l0"
    coder = CoderConfig(name=arch, arch=arch, d_sae=D_SAE, options={option: L0}, reads=("x",), seed=seed)
    run = TrainConfig(coders=(coder,), batch_size=BATCH, aux_share=1.0, dead_after=0.05)
    rows = planted(BATCH * STEPS, 100 + seed).to(device)
    moments = {"x": (rows.mean(0).cpu(), float((rows - rows.mean(0)).pow(2).sum(1).mean()))}
    with using(kernels):
        member = Member(coder, run, {"x": slice(0, D_IN)}, moments, STEPS, device, selection)
        member.prepare(rows[:BATCH])
        for step, batch in enumerate(rows.split(BATCH)):
            member.step(batch, step)
        held_out = planted(2048, 7).to(device)
        member.coder.architecture.calibrate(member.coder, [member.inputs(held_out)[0]])
        return member.held_out(held_out)["held_out_fvu_centered"]


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu", "standard"])
@pytest.mark.parametrize("kernels", sorted(set(IMPLEMENTATIONS) - {"reference", "cuda"}))
def test_training_ends_where_the_reference_does(kernels: str, arch: str) -> None:
    check_ends_where_the_reference_does(kernels, arch, torch.bfloat16 if kernels == "cpu" else torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("arch", architecture_names(trainable=True))
def test_training_on_a_gpu_ends_where_the_reference_does(arch: str) -> None:
    check_ends_where_the_reference_does("cuda", arch, torch.bfloat16)


def check_ends_where_the_reference_does(kernels: str, arch: str, selection: torch.dtype) -> None:
    theirs = [held_out_error("reference", arch, seed, torch.float32) for seed in SEEDS]
    mine = [held_out_error(kernels, arch, seed, selection) for seed in SEEDS]
    spread = max(theirs) - min(theirs)
    assert abs(sum(mine) - sum(theirs)) / 3 < max(spread, 0.02), (mine, theirs)
    assert max(mine) < 0.7, "it has learned something"
