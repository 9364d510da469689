"""`saescope convert`, and the table of formats that it, detection and the docs share."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tests.coders.formats.test_golden import FIXTURES
from typer.testing import CliRunner

from saescope import cli
from saescope.coders import FORMATS, load
from saescope.errors import CoderError, ForeignCoderWarning, OccupiedError, UsageError

DOCS = Path(__file__).parents[3] / "docs" / "formats.md"


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    if not any(command.name == "convert" for command in cli.app.registered_commands):
        cli._register()


def convert(*words: object) -> str:
    result = CliRunner().invoke(cli.app, ["convert", *map(str, words)], catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_coder_goes_there_and_back(tmp_path: Path) -> None:
    told = convert(FIXTURES / "sparsify" / "sae" / "layers.3", tmp_path / "ours")
    assert "sparsify -> saescope" in " ".join(told.split())
    assert "assumed: its files do not say whether texts began with BOS" in " ".join(told.split())
    convert(tmp_path / "ours", tmp_path / "theirs", "--to", "dictionary_learning")
    made = json.loads(convert(tmp_path / "theirs", tmp_path / "again", "--to", "sae_lens", "--json"))
    assert made["from"] == "dictionary_learning"
    assert (made["architecture"], made["kind"], made["d_in"], made["d_sae"]) == ("topk", "sae", 12, 20)
    assert made["reads"] == made["writes"] == ["resid_post.3"]
    x = torch.randn(5, 12)
    with pytest.warns(ForeignCoderWarning, match="BOS"):
        torch.testing.assert_close(load(tmp_path / "again")(x), load(FIXTURES / "sparsify" / "sae" / "layers.3")(x))


def test_what_was_assumed_stays_with_the_coder(tmp_path: Path) -> None:
    """In our own files, and so in every report made from them later."""
    convert(FIXTURES / "dictionary_learning" / "backup", tmp_path / "ours")
    kept = load(tmp_path / "ours").metadata.imported
    assert kept["format"] == "dictionary_learning"
    assert any("is a backup of a run at step 7" in text for text in kept["warnings"])


def test_options_reach_the_reader(tmp_path: Path) -> None:
    made = json.loads(
        convert(
            FIXTURES / "sae_lens" / "scaled_standard", tmp_path / "out", "--input-scale", "0.25", "--reads", "resid_pre.4",
            "--from", "sae_lens", "--json",
        )
    )  # fmt: skip
    assert made["reads"] == ["resid_pre.4"]


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ([], UsageError, "convert takes a coder and a folder to write"),
        (["a", "b", "--to", "gemma_scope"], UsageError, "reads gemma_scope and does not write it"),
        (["a", "b", "--to", "saelens"], UsageError, "nearest: sae_lens"),
        ([FIXTURES / "sae_lens" / "topk", "b", "--from", "nothing"], UsageError, "unknown format 'nothing'"),
        ([FIXTURES / "sae_lens" / "topk", "b", "--input-scale", "much"], UsageError, "'much' is no number"),
        (
            [FIXTURES / "sae_lens" / "topk", "b", "--reads", "somewhere"],
            UsageError,
            "reads = 'somewhere' is not a hook point",
        ),
        ([FIXTURES / "sae_lens" / "scaled_standard", "b"], CoderError, "--input-scale"),
        ([FIXTURES / "sae_lens" / "topk", "."], OccupiedError, ". is the folder you are in"),
        ([FIXTURES / "sae_lens" / "topk", "b", "--from", "sparsify"], CoderError, "sae.safetensors is missing"),
    ],
)
def test_refusals(
    words: list[object], error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=re.escape(says)):
        convert(*words)
    assert not list(tmp_path.iterdir())


def test_the_list_shows_every_format() -> None:
    rows = json.loads(convert("--list", "--json"))
    assert [row["name"] for row in rows] == [row.name for row in FORMATS]
    assert all(row.name in convert("--list") for row in FORMATS)


def test_every_format_has_what_its_row_says() -> None:
    for row in FORMATS:
        module = row.load()
        assert callable(module.detect)
        assert callable(module.read)
        assert hasattr(module, "write") == bool(row.writes), row.name
        assert module.__doc__


def test_the_docs_show_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", DOCS.read_text(), re.MULTILINE)
    expected = [(row.name, row.title, row.files, row.reads, row.writes or "–") for row in FORMATS]
    assert rows == expected
