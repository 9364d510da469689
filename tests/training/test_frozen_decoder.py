"""A frozen decoder, the sweep's control: everything else trains, dead latents come back, the directions stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.conftest import MemorySource, planted

from saescope.errors import UsageError
from saescope.training import CoderConfig, TrainConfig, train


def trained(tmp_path: Path, arch: str, options: dict[str, object]) -> dict[str, object]:
    rows = planted(rows=4096)
    both = tuple(
        CoderConfig(name=name, arch=arch, d_sae=48, options=options, reads=("a",), lr=3e-3, frozen_decoder=frozen)
        for name, frozen in (("frozen", True), ("free", False))
    )
    config = TrainConfig(coders=both, batch_size=64, dead_after=0.05)
    return dict(train(config, MemorySource(rows, {"a": 24}, held_out=rows[:512]), tmp_path / arch))


@pytest.mark.parametrize(
    ("arch", "options"), [("batchtopk", {"k": 3}), ("matryoshka", {"k": 3, "fractions": [0.2]}), ("gated", {"l0": 3})]
)
def test_only_the_decoder_stays(tmp_path: Path, arch: str, options: dict[str, object]) -> None:
    found = trained(tmp_path, arch, options)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(48, 24, generator=generator)
    start /= start.norm(dim=1, keepdim=True)
    frozen, free = found["frozen"], found["free"]
    torch.testing.assert_close(frozen.W_dec, start, rtol=1e-5, atol=1e-6)
    assert (free.W_dec * start).sum(1).mean() < 0.999
    # The encoder left the transpose it was tied to.
    scale = frozen.W_enc_rows.norm(dim=1, keepdim=True)
    assert ((frozen.W_enc_rows / scale) * start).sum(1).mean() < 0.99
    history = {name: coder.metadata.history for name, coder in found.items()}
    # Gated begins with magnitudes that fit, so it has less to gain.
    assert history["frozen"][-1]["fvu"] < history["frozen"][0]["fvu"] * (0.97 if arch == "gated" else 0.8)
    assert history["free"][-1]["fvu"] < history["frozen"][-1]["fvu"]


def test_a_frozen_decoder_does_not_go_with_what_rewrites_it() -> None:
    for also in ({"resample": (0.5,)}, {"init": "somewhere"}):
        with pytest.raises(UsageError, match="a frozen decoder is random"):
            CoderConfig(name="c", reads=("a",), frozen_decoder=True, **also)
