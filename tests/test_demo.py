"""The demo, small: the whole way on the real model and text, and what it refuses before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.features.index.built import text_folder
from tests.measured import tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.cli.demo import _Shown
from saescope.demo import DemoOptions, run
from saescope.errors import OccupiedError, UsageError
from saescope.lm import LanguageModel

ARGUMENTS = [
    "--no-serve", "--tokens", "4000", "--d-sae", "512", "--l0", "16", "--passes", "1",
    "--eval-tokens", "256", "--ce-tokens", "256",
]  # fmt: skip


def demo(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "saescope", "demo", "--out", str(out), *ARGUMENTS, *more]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False, env=os.environ | {"COLUMNS": "200"}
    )


class Stages:
    """An audience that keeps the names of the stages; nothing else is shown to it before the first work."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def stage(self, number: int, of: int, title: str) -> None:
        self.begun.append(title)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"eval_tokens": 0}, "--eval-tokens must be positive"),
        ({"ce_tokens": -1}, "--ce-tokens must be positive"),
        ({"passes": 0}, "passes"),
        ({"d_sae": 8, "l0": 16}, "more than the 8 latents"),
    ],
)
def test_what_cannot_work_is_refused_before_the_harvest(
    tmp_path: Path,
    byte_tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    wrong: dict[str, float],
    said: str,
) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda name: tiny_lm(byte_tokenizer))
    stages = Stages()
    options = DemoOptions(tmp_path / "out", model="tiny", corpus=str(text_folder(tmp_path / "text")), **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said):
        run(options, stages)  # type: ignore[arg-type]
    assert "harvest" not in stages.begun
    assert not options.out.exists()


def test_someone_elses_report_is_found_before_the_harvest(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda name: tiny_lm(byte_tokenizer))
    (tmp_path / "out" / "report").mkdir(parents=True)
    (tmp_path / "out" / "report" / "metrics.json").write_text("mine")
    stages = Stages()
    with pytest.raises(OccupiedError, match="was not written by saescope"):
        run(DemoOptions(tmp_path / "out", "tiny", str(text_folder(tmp_path / "text"))), stages)  # type: ignore[arg-type]
    assert stages.begun == ["fetch"]


@pytest.mark.parametrize("quiet", [True, False])
def test_headlines_are_progress(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAESCOPE_QUIET", "1" if quiet else "")
    with ExitStack() as stack:
        _Shown(stack, silent=False).stage(2, 5, "harvest")
    assert capsys.readouterr().err == ("" if quiet else "2/5 harvest\n")


@pytest.mark.real
def test_demo_makes_what_it_says_and_continues_where_it_was(tmp_path: Path) -> None:
    done = demo(tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    for name in (
        "report/report.html",
        "report/metrics.json",
        "run/coders/batchtopk",
        "run/coders/matryoshka",
        "run/coders/batchtopk/index/labels",
        "store",
    ):
        assert (tmp_path / "demo" / name).exists(), name
        assert str(tmp_path / "demo" / name).removesuffix("/labels") in done.stdout, f"the last lines name {name}"
    assert f"saescope serve {tmp_path / 'demo'}" in done.stdout
    assert "saescope eval" in done.stdout.splitlines()[-2]
    metrics = json.loads((tmp_path / "demo/report/metrics.json").read_text())
    assert [found["coder"]["name"] for found in metrics] == ["batchtopk", "matryoshka"]
    for found in metrics:
        assert found["coder"]["fvu_centered"] < 1
        assert set(found["controls"]) == {"frozen_random", "pca", "neurons"}
    weights = tmp_path / "demo/run/coders/batchtopk/sae_weights.safetensors"
    before = weights.stat().st_mtime_ns
    again = demo(tmp_path / "demo", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["coders"]["batchtopk"].endswith("run/coders/batchtopk")
    assert weights.stat().st_mtime_ns == before, "nothing that was finished is made again"
