"""On a device without float64 (Apple's GPUs) training, settling and measuring make none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.conftest import planted
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saescope.coders import architecture_names, architecture_type
from saescope.kernels import using
from saescope.training import CoderConfig, TrainConfig
from saescope.training.member import Member


class WithoutFloat64(TorchDispatchMode):
    """Refuses every tensor of float64, as that device would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            assert not (isinstance(one, Tensor) and one.dtype == torch.float64), func
        return made


@pytest.mark.parametrize("arch", architecture_names(trainable=True))
def test_nothing_in_training_is_float64_where_there_is_none(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("coders.coder", "coders.calibration", "training.member"):
        monkeypatch.setattr(f"saescope.{place}.exact_float", lambda device: torch.float32)
    options: dict[str, Any] = {architecture_type(arch).l0_option: 3}
    config = CoderConfig(name="a", arch=arch, d_sae=64, options=options, reads=("a",))
    rows = planted(256)
    moments = {"a": (rows.double().mean(0), float(rows.var()))}
    run = TrainConfig(coders=(config,), batch_size=64)
    member = Member(config, run, {"a": slice(0, 24)}, moments, 4, torch.device("cpu"), torch.float32)
    with using("sparse"), WithoutFloat64():
        member.prepare(rows[:64])
        for step, batch in enumerate(rows.split(64)):
            member.step(batch, step)
        found = member.held_out(rows)
        member.coder.architecture.calibrate(member.coder, [member.inputs(rows)[0]])
        member.coder.architecture.refit(member.coder, [member.inputs(rows)])
    assert found["held_out_loss"] > 0
