"""A trial as a folder: trained, measured, continued, refused; through the library and the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluation.known import config

from saescope import cli
from saescope.cli import synthetic
from saescope.errors import OccupiedError, UsageError
from saescope.evaluation.synthetic import METRICS, TrialRequest, trial
from saescope.evaluation.synthetic.recovery import Recovery, recovery
from saescope.training import Progress, Watcher


def request(**changes: Any) -> TrialRequest:
    base = {
        "synthetic": config(n_features=32, d_in=24, spreading=50),
        "archs": ["batchtopk", "topk"],
        "l0s": [3],
        "d_sae": 32,
        "tokens": 24_000,
        "batch_size": 128,
        "seeds": [0, 1],
        "measured": 4096,
    }
    return TrialRequest.from_data(**base | changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("trial") / "out"
    return out, trial(request(), out)


def test_training_finds_features_that_chance_does_not(done: tuple[Path, dict[str, Any]]) -> None:
    _, record = done
    random, oracle = record["controls"]["frozen_random"], record["controls"]["oracle"]
    for kind in record["by_arch"]:
        for metric in ("f1", "mcc", "explained_variance"):
            assert random[metric] + 0.2 < kind["mean"][metric] <= oracle[metric] + 1e-9
        assert kind["stability"]["share"] > kind["stability"]["controls"]["shuffled"]["share"] + 0.15
        assert kind["seeds"] == 2
        assert kind["intervals"]["f1"] is None, "two seeds say nothing of a third"
    assert len(record["coders"]) == 4
    assert all(set(METRICS) <= set(coder) for coder in record["coders"])
    topk = next(coder for coder in record["coders"] if coder["arch"] == "topk")
    assert topk["l0"] == pytest.approx(3.0, abs=0.01)


def test_a_complete_trial_is_read_and_others_are_refused(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, record = done
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert trial(request(), out) == record
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == written
    assert record["complete"]
    assert record["schema"] == 1
    with pytest.raises(OccupiedError, match="another request"):
        trial(request(tokens=32_000), out)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OccupiedError, match="not a synthetic trial"):
        trial(request(), tmp_path)
    (out.parent / "broken").mkdir()
    (out.parent / "broken" / "request.json").write_text("{")
    with pytest.raises(OccupiedError, match="damaged"):
        trial(request(), out.parent / "broken")


def test_an_interrupted_trial_goes_on_to_the_same_numbers(done: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    runs = 0

    @contextmanager
    def interrupting() -> Iterator[Watcher]:
        nonlocal runs
        runs += 1

        def watch(now: Progress) -> None:
            if runs == 2 and now.step == 90:
                raise KeyboardInterrupt

        yield watch

    with pytest.raises(KeyboardInterrupt):
        trial(request(), tmp_path / "out", watching=interrupting)
    assert not (tmp_path / "out" / "synthetic.json").exists()
    again = trial(request(), tmp_path / "out")
    for coder in (*again["coders"], *done[1]["coders"]):
        coder.pop("run_seconds", None)
    assert again == done[1]


def test_a_coder_that_died_has_no_stability_and_ends_nothing(
    done: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    (out / "synthetic.json").unlink()

    def dead(*given: Any, **options: Any) -> Recovery:
        found = recovery(*given, **options)
        return replace(found, density=torch.zeros_like(found.density))

    monkeypatch.setitem(trial.__globals__, "recovery", dead)
    record = trial(request(), out)
    for kind in record["by_arch"]:
        assert "has no latent that fires" in kind["stability"]["absent"]
    assert synthetic._table(record).row_count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"archs": []}, "no architecture"),
        ({"archs": ["batchtop"]}, "nearest: batchtopk"),
        ({"seeds": [0, 0]}, "seeds must differ"),
        ({"seeds": []}, "seeds"),
        ({"l0s": [2.5]}, "whole number"),
        ({"l0s": [64]}, "more than the 32 latents"),
        ({"settings": {"beta": 1}}, "nearest: betas"),
        ({"settings": {"seed": 1}}, "settles seed by options of its own"),
        ({"settings": {"lr": 1e-3}}, "settles lr by options of its own"),
        ({"tokens": 0}, "tokens: input should be greater than 0, got 0"),
    ],
)
def test_impossible_requests_are_refused_before_any_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        request(**changes)


def saescope(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["saescope", "synthetic", *map(str, arguments)])
    return cli._run()


def test_settings_reach_the_trainer() -> None:
    assert request(settings={"betas": [0, 0.999]}).training(1).betas == (0, 0.999)


def test_command_prints_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not cli.app.registered_commands:
        cli._register()
    monkeypatch.setenv("SAESCOPE_QUIET", "1")
    out = tmp_path / "out"
    arguments = ("--preset", "small", "--arch", "matryoshka", "--tokens", 20_000, "--seeds", 0, "--out", out)
    assert saescope(monkeypatch, *arguments, "--measure", 4096, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "synthetic.json").read_text())
    assert record["request"]["d_sae"] == 256
    assert "stability" not in record["by_arch"][0]
    assert saescope(monkeypatch, *arguments, "--measure", 4096) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:4]] == ["oracle", "matryoshka", "frozen_random"]
    assert saescope(monkeypatch, *arguments, "--measure", 8192) == 1
    assert "another request" in capsys.readouterr().err
    assert saescope(monkeypatch, "--preset", "big", "--out", tmp_path / "other") == 2
    assert "toy, small, 16k" in capsys.readouterr().err
    assert saescope(monkeypatch, "--seeds", "0,x", "--out", tmp_path / "other") == 2
    assert not (tmp_path / "other").exists()
