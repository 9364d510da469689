"""A training step on a GPU may not look at data: the host would wait for the device, and then the device for the host.

Tensors without data take its place here, on which whatever looks at data fails. Triton's kernels only write into tensors
that are given to them, so here they do nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from saescope.coders import architecture_names
from saescope.kernels import Room, cuda, row_update, sparse, strongest, using
from saescope.kernels.room import Places
from saescope.training.config import CoderConfig, TrainConfig
from saescope.training.member import Member

LOOKS_AT_DATA = (DataDependentOutputException, DynamicOutputShapeException, RuntimeError)
# Wide enough that the largest are searched by groups.
D, D_SAE, TOKENS = 6, 640, 32
POINT, DEVICE = "resid_post.0", torch.device("cpu")


class Launched:
    """Any Triton kernel."""

    def __getattr__(self, name: str) -> Launched:
        return self

    def __getitem__(self, grid: object) -> Launched:
        return self

    def __call__(self, *inputs: Any, **options: Any) -> None:
        pass


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "lacking", lambda: None)
    monkeypatch.setattr(cuda, "_tiling", lambda table: {"BLOCK": table.shape[1]})
    monkeypatch.setattr(row_update, "_tiling", lambda table: {})
    for module in (cuda, row_update, strongest):
        monkeypatch.setattr(module, "kernels", Launched)
    # A batch of so many entries went before.
    monkeypatch.setattr(Room, "places", lambda room: Places(9 * TOKENS, 3 * TOKENS))
    monkeypatch.setattr(Room, "tell", lambda room, count, places: None)


def step(arch: str) -> None:
    """One step of a coder of `arch` with dead latents, on tensors without data."""
    config = CoderConfig(name=arch, arch=arch, reads=(POINT,), d_sae=D_SAE)
    run = TrainConfig(coders=(config,), batch_size=TOKENS, aux_k=3)
    with FakeTensorMode():
        moments = {POINT: (torch.empty(D, device=DEVICE), 1.0)}
        member = Member(config, run, {POINT: slice(0, D)}, moments, 100, DEVICE, torch.bfloat16)
        member.firing._dead_list = torch.empty(5, dtype=torch.int64, device=DEVICE)
        member.step(torch.empty(TOKENS, D, device=DEVICE), 1)


@pytest.mark.parametrize("arch", architecture_names(trainable=True))
def test_a_step_never_waits_for_the_device(arch: str, without_data: None) -> None:
    with using("cuda"):
        step(arch)


@pytest.mark.parametrize("arch", ["jumprelu", "gated", "standard", "topk"])
def test_the_check_finds_what_waits(arch: str, without_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "select_threshold", sparse.select_threshold)
    monkeypatch.setattr(cuda, "select_topk", sparse.select_topk)
    with using("cuda"), pytest.raises(LOOKS_AT_DATA, match=r"numpy|aten\.nonzero|aten\._local_scalar"):
        step(arch)
