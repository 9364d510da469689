"""Where metrics go."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from saescope.errors import UsageError
from saescope.training.journal import JsonLines, open_loggers, read_lines, require_loggers, thinned


def test_json_lines_drop_what_a_kill_left_behind(tmp_path: Path) -> None:
    """A run killed after its checkpoint at step 2 has logged step 3, and half of step 4."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "coder": "a"}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "co')
    journal = JsonLines(path, after_step=2)
    journal.log(3, "a", {"loss": 0.5})
    journal.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]
    assert read_lines(path)[-1]["loss"] == 0.5


def test_other_loggers_get_every_scalar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            seen.append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, value, step))

        def close(self) -> None:
            seen.append("closed")

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            seen.append((values, step))

        def finish(self) -> None:
            seen.append("finished")

    def module(name: str, **parts: object) -> None:
        made = types.ModuleType(name)
        made.__dict__.update(parts)
        monkeypatch.setitem(sys.modules, name, made)

    module("torch.utils.tensorboard", SummaryWriter=Writer)
    module("wandb", init=lambda **given: Run())
    loggers = open_loggers(["tensorboard", "wandb"], tmp_path, 0, {})
    for logger in loggers:
        logger.log(7, "a", {"loss": 0.25})
        logger.close()
    assert str(tmp_path / "tensorboard") in seen
    assert ("a/loss", 0.25, 7) in seen
    assert ({"a/loss": 0.25}, 7) in seen
    assert {"closed", "finished"} <= {item for item in seen if isinstance(item, str)}


def test_missing_and_unknown_loggers_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"pip install 'saescope\[wandb\]'"):
        require_loggers(["wandb"])
    with pytest.raises(UsageError, match="unknown logger 'comet'; known: tensorboard, wandb"):
        require_loggers(["comet"])


def test_thinning_keeps_ends_and_held_out_lines() -> None:
    lines = [{"step": step, "coder": "a"} | ({"held_out_l0": 1.0} if step % 100 == 0 else {}) for step in range(1000)]
    kept = [line["step"] for line in thinned(lines, "a", most=50)]
    assert len(kept) <= 52
    assert {0, 100, 900, 999} <= set(kept)
    assert kept == sorted(kept)
