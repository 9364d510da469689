"""`saescope bench`: what it says adds up, on small shapes; never how fast."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from saescope import bench
from saescope.bench import Shape, anonymous_memory, time_steps
from saescope.cli import _register, app
from saescope.errors import UsageError
from saescope.kernels import active

SMALL = {"d_in": 16, "d_sae": 96, "l0": 4, "batch_size": 64}


@pytest.mark.parametrize("arch", ["batchtopk", "topk", "matryoshka", "jumprelu", "gated", "standard"])
def test_stages_are_a_step_and_ratios_are_of_pairs(arch: str) -> None:
    found = time_steps(Shape(arch, **SMALL), pairs=3, device="cpu")
    assert len(found.steps) == len(found.products) == len(found.ratios) == 3
    assert found.ratios == sorted(found.ratios)
    assert all(seconds >= 0 for seconds in found.stages.values())
    idle = {name for name, seconds in found.stages.items() if seconds == 0}
    # Where latents are chosen by a threshold, choosing them has computed their values.
    known = {"values of the chosen"} if arch in ("jumprelu", "standard") else set()
    assert idle == known, "every stage of a training step was seen"
    assert found.tokens_per_second == pytest.approx(64 / found.step)
    assert 0 < found.l0 < 96


def test_the_command_prints_tables_or_json() -> None:
    if not app.registered_commands:
        _register()
    options = ["--d-in", "16", "--d-sae", "96", "--l0", "4", "--batch-size", "64", "--pairs", "1", "--device", "cpu"]
    table = CliRunner().invoke(app, ["bench", *options, "--arch", "topk,batchtopk"])
    assert table.exit_code == 0, table.output
    for words in ("topk", "batchtopk", "tokens/s", "the bare encoder product", "weight gradients"):
        assert words in table.output
    record = json.loads(CliRunner().invoke(app, ["bench", *options, "--json"]).output)
    assert record["steps"][0]["kernels"] == active(torch.device("cpu")).name


def test_an_impossible_shape_is_one_line() -> None:
    with pytest.raises(UsageError, match="nearest: topk"):
        time_steps(Shape("topkk", **SMALL), device="cpu")
    with pytest.raises(UsageError, match="k = 97 is more than the 96 latents"):
        time_steps(Shape("topk", **SMALL | {"l0": 97}), device="cpu")


def test_too_little_text_is_refused_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    if not app.registered_commands:
        _register()
    monkeypatch.setattr(bench, "time_steps", lambda *_, **__: pytest.fail("timed before it was refused"))
    found = CliRunner().invoke(app, ["bench", "--text", "3", "--model", "nowhere"])
    assert isinstance(found.exception, UsageError)
    assert "--text takes at least 1,024 tokens" in str(found.exception)


def test_memory_is_what_was_touched() -> None:
    if anonymous_memory() is None:
        pytest.skip("this system does not tell")
    # In a process of its own: one that has run other tests gives memory back to the system meanwhile.
    code = (
        "import torch; from saescope.bench import peak_memory\n"
        "with peak_memory(torch.device('cpu')) as peak:\n"
        "    held = torch.ones(256 * 2**20, dtype=torch.uint8)\n"
        "print(peak.bytes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 240 * 2**20 < int(done.stdout) < 400 * 2**20
