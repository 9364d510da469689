"""`saescope label` on a small index on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests.features.index.built import tiny_index
from tests.features.labels.served import Asked, Served, serving
from transformers import PreTrainedTokenizerFast

from saescope import cli
from saescope.errors import SaescopeError, UsageError
from saescope.features import FeatureIndex
from saescope.features.labels import read_labels
from saescope.features.labels.prompts import EXPLAINER


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, bos_tokenizer: PreTrainedTokenizerFast) -> FeatureIndex:
    return tiny_index(tmp_path_factory.mktemp("labels"), bos_tokenizer)


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    cli._register()
    return cli.app


def run(app: typer.Typer, *words: object) -> None:
    app(["label", *map(str, words)], standalone_mode=False)


def test_every_live_feature_gets_a_label(
    app: typer.Typer, index: FeatureIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    run(app, index.path, "--json")
    told = json.loads(capsys.readouterr().out)
    table = read_labels(index)
    assert table is not None
    assert [label.feature for label in table.labels] == [f for f in range(index.d_sae) if index.count[f]]
    assert told["labels"] == len(table) > 10
    assert told["file"] == str(index.path / "labels" / f"{table.version}.parquet")
    for label in table.labels:
        assert label.text.isprintable()
        assert 0 < len(label.text) <= 120
        assert label.score is None or 0 <= label.score <= 1
    run(app, index.path, "--features", "1,2")
    assert "2 labels" in capsys.readouterr().out
    again = read_labels(index)
    assert again is not None
    assert len(again) == len(table)


def test_endpoint_is_asked_with_the_key_after_the_cost_is_told(
    app: typer.Typer, index: FeatureIndex, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(asked: Asked, number: int) -> Served:
        return Served("words [bold]of[/] scripts" if asked.system == EXPLAINER else "[1, 1, 1, 1, 1]")

    monkeypatch.setenv("SAESCOPE_API_KEY", "from-the-environment")
    with serving(script) as server:
        asking = (index.path, "--spread", 2, "--endpoint", server.url, "--model", "m", "--prompt-price", 3)
        run(app, *asking, "--dry-run")
        with pytest.raises(UsageError, match="add --yes"):
            run(app, *asking)
        assert server.asked == []
        told = capsys.readouterr()
        assert "2 features to ask m about" in told.err
        assert "$" in told.err
        run(app, *asking, "--yes")
        assert {asked.headers["Authorization"] for asked in server.asked} == {"Bearer from-the-environment"}
    # Markup in a label is text.
    assert "words [bold]of[/] scripts" in capsys.readouterr().out
    table = read_labels(index, kinds=["llm"])
    assert table is not None
    assert [label.text for label in table.labels] == ["words [bold]of[/] scripts"] * 2
    everything = "".join(path.read_bytes().decode("latin1") for path in Path(index.path).rglob("*") if path.is_file())
    assert "from-the-environment" not in everything


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--endpoint", "http://127.0.0.1:1/v1"], "--endpoint and --model go together"),
        (["--model", "m"], "--endpoint and --model go together"),
        (["--yes"], "go with --endpoint or --local"),
        (["--features", "1", "--spread", "2"], "not both"),
        (["--features", "x"], "takes numbers"),
        (["--features", ""], "none of the features named"),
        (["--features", "99999"], "no feature 99999"),
        (["--split", "word"], "unknown split"),
        (["--endpoint", "nowhere", "--model", "m"], "is no address"),
    ],
)
def test_what_cannot_work_is_refused(app: typer.Typer, index: FeatureIndex, words: list[str], said: str) -> None:
    with pytest.raises(SaescopeError, match=said) as caught:
        run(app, index.path, *words)
    assert caught.value.exit_code == 2


def test_local_model_answers_through_the_same_door(
    index: FeatureIndex, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    from tests.measured import tiny_lm

    from saescope.features.labels.chat import LocalModel

    model = LocalModel(tiny_lm(byte_tokenizer))
    reply = model.reply("be brief", "what?", 4)
    assert reply.completion_tokens <= 4
    assert reply.prompt_tokens > 5
    assert reply.text == model.reply("be brief", "what?", 4).text
