"""`saescope eval` checks what it is given before it works, and keeps what it has found when a later part fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.measured import documents, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope import cli, evaluation
from saescope.coders import save
from saescope.errors import TextError
from saescope.lm import LanguageModel


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_QUIET", "1")
    if not any(command.name == "eval" for command in cli.app.registered_commands):
        cli._register()


@pytest.fixture
def given(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A coder whose text has no whole sequence, and the text."""
    lm = tiny_lm(byte_tokenizer)
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: lm)
    sequences = {"context": 64, "packed": False}
    coder = save(random_coder(sequences=sequences, model={"spec": "tiny"}), tmp_path / "coder")
    lines = [json.dumps({"title": one.title, "text": one.text[:40]}) for one in documents()]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    return [coder, "--corpus", tmp_path / "text.jsonl", "--out", tmp_path / "out"]


def evaluated(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["saescope", "eval", *map(str, words)])
    return cli._run()


def metrics(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "metrics.json").read_text())
    return found


def test_labelled_sets_are_read_before_the_model_is_loaded(
    given: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "bad.csv").write_text("text,label\nsome,one\n")
    monkeypatch.setattr(LanguageModel, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert evaluated(monkeypatch, *given, "--suite", "probing", "--tasks", tmp_path / "tasks") == 1
    assert "a labelled set needs two labels or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "what cannot be read leaves no folder"


def test_a_part_that_cannot_be_measured_is_absent_with_its_reason(
    given: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(kinds: Any, *_: object) -> Any:
        raise TextError(f"too little text for {kinds[0].name}")

    monkeypatch.setattr(evaluation, "measure_parts", measured)
    assert evaluated(monkeypatch, *given, "--suite", "effects", "--compat", "saelens") == 0
    found = metrics(tmp_path)
    assert found["coder"]["fvu_centered"] > 0
    assert found["parts"]["effects"] == {"absent": "too little text for effects"}
    assert "no sequence of 64 tokens" in found["parts"]["saelens"]["absent"]
    assert "too little text for effects" in (tmp_path / "out" / "report.html").read_text()


def test_an_interruption_keeps_the_core_and_promises_nothing(
    given: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "measure_parts", interrupted)
    assert evaluated(monkeypatch, *given, "--suite", "effects") == 130
    assert metrics(tmp_path)["coder"]["fvu_centered"] > 0
    assert capsys.readouterr().err.strip() == "saescope: interrupted"


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize(
    ("command", "goes_on"), [("train", True), ("sweep", True), ("convert", False), ("bench", False)]
)
def test_only_commands_that_go_on_say_so(
    command: str, goes_on: bool, caught: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> int:
        if caught:
            return 130
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr("sys.argv", ["saescope", "-q", command, "something"])
    assert cli._run() == 130
    assert ("the same command goes on" in capsys.readouterr().err) is goes_on
