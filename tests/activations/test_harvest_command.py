"""`saescope harvest` as a person or a machine uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from saescope.activations import Store
from saescope.cli.harvest import register
from saescope.errors import SaescopeError, UsageError
from saescope.lm import LanguageModel


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)
    return app


@pytest.fixture(scope="module")
def model(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    lm.hf_model.save_pretrained(folder)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(model: Path, text_file: Path, tmp_path: Path) -> list[str]:
    given = {"model": model, "corpus": text_file, "points": "resid_post.0, mlp_out.1", "tokens": 1000, "context": 32}
    return ["harvest", *(part for name, value in given.items() for part in (f"--{name}", str(value)))]


def test_a_person_is_told_the_cost_the_result_and_what_next(
    app: typer.Typer, arguments: list[str], tmp_path: Path
) -> None:
    first = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "s")])
    assert first.exit_code == 0, first.output
    store = Store.open(tmp_path / "s")
    assert "1,000 tokens: at most" in first.output
    assert f"{store.n_rows:,} rows of resid_post.0, mlp_out.1" in first.output
    assert f"next: saescope train {tmp_path / 's'}" in first.output
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "s")])
    assert "complete already" in again.output


def test_a_machine_gets_json_and_nothing_else(app: typer.Typer, arguments: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "s"), "--json", "--one-per-document"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    store = Store.open(tmp_path / "s")
    assert told["rows"] == store.n_rows
    assert told["points"] == {"resid_post.0": 24, "mlp_out.1": 24}
    assert told["counts"]["train"]["rows"] + told["counts"]["held_out"]["rows"] == store.n_rows


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--context", "1"], "--context '?1'?"),
        (["--held-out", "1.5"], "--held-out"),
        (["--bos", "sometimes"], "--bos 'sometimes'"),
        (["--points", "resid_pots.0"], "resid_post.0"),
        (["--points", ","], "no hook points"),
        (["--corpus", "no/such/file"], "no/such/file"),
        (["--model", "no/such/model"], "no/such/model"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    more: list[str], named: str, app: typer.Typer, arguments: list[str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "s"), *more])
    assert isinstance(result.exception, SaescopeError), result.exception
    with pytest.raises((UsageError, SaescopeError), match=named):
        raise result.exception
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "s").exists()


def test_help_has_an_example_that_parses(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["harvest", "--help"], terminal_width=200, env={"COLUMNS": "200"})
    assert "Example: saescope harvest --model smollm2" in " ".join(result.output.split())
