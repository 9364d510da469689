"""`saescope export-features` as a person runs it, its refusals in one line."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
from tests.features.index.built import tiny_index
from transformers import PreTrainedTokenizerFast

from saescope import cli
from saescope.errors import FeatureIndexError, OccupiedError, UsageError
from saescope.features import FeatureIndex
from saescope.features.labels import Label, LabelTable, write_labels
from saescope.server.people import People


@pytest.fixture(scope="module")
def index(bos_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return tiny_index(tmp_path_factory.mktemp("tiny"), bos_tokenizer)


def export(*words: object) -> None:
    if not any(command.name == "export-features" for command in cli.app.registered_commands):
        cli._register()
    cli.app(["export-features", *map(str, words)], standalone_mode=False)


@pytest.mark.parametrize("to", ["neuronpedia", "html", "parquet"])
def test_each_format(
    index: FeatureIndex, to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAESCOPE_QUIET", "1")
    two = ",".join(map(str, index.count.argsort()[-2:].tolist()))
    export(index.path, "--to", to, "--features", two, "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert said.startswith("2 features of random: ")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    expected = {
        "neuronpedia": {f"tiny/1-random/{name}.jsonl" for name in ("release", "model", "sourceset", "source")}
        | {f"tiny/1-random/{name}/batch-0.jsonl.gz" for name in ("features", "activations")},
        "html": {"features.html"},
        "parquet": {"features.parquet", "examples.parquet"},
    }
    assert files == expected[to]
    with pytest.raises(OccupiedError):
        export(index.path, "--to", to, "--features", two, "--out", tmp_path / "out")


def test_without_features_named(index: FeatureIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(index.path, "--to", "html", "--out", tmp_path / "page")
    export(index.path, "--to", "parquet", "--out", tmp_path / "tables")
    page, tables = capsys.readouterr().out.splitlines()
    assert page.startswith("24 features of random: one page")
    assert tables.startswith(f"{int((index.count > 0).sum())} features of random: two tables")


def test_peoples_labels_lists_and_stars(
    index: FeatureIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's label wins over an automatic one; lists and stars choose."""
    one, two, three = index.count.argsort()[-3:].tolist()
    automatic = [Label(one, "made by rule", 0.9), Label(two, "also by rule", 0.8)]
    write_labels(index, LabelTable(tuple(automatic), "contrastive", "20260101T000000-contrastive"))
    workspace = index.path.parent.parent
    people = People(workspace)
    coder = index.manifest.coder.fingerprint
    people.write("label", coder, one, "said by a person", 0)
    people.star(coder, three, True)
    people.put_in_lists(coder, one, ["mine"])
    people.put_in_lists(coder, two, ["mine"])
    people.close()
    export(index.path, "--to", "parquet", "--list", "mine", "--starred", "--out", tmp_path / "tables")
    rows = duckdb.sql(
        f"select feature, label, label_kind, label_score from '{tmp_path}/tables/features.parquet' order by 1"
    ).fetchall()
    assert rows == sorted(
        [
            (one, "said by a person", "person", None),
            (two, "also by rule", "contrastive", 0.8),
            (three, None, None, None),
        ]
    )
    export(index.path, "--to", "html", "--list", "mine", "--workspace", workspace, "--out", tmp_path / "page")
    assert "said by a person" in (tmp_path / "page" / "features.html").read_text()
    with pytest.raises(UsageError, match="there is no list 'mien' of this coder; nearest: mine"):
        export(index.path, "--to", "html", "--list", "mien", "--out", tmp_path / "other")
    with pytest.raises(UsageError, match="has no people"):
        export(index.path, "--to", "html", "--list", "mine", "--workspace", tmp_path, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_refusals(index: FeatureIndex, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="--to 'htlm' is not a format; nearest: html"):
        export(index.path, "--to", "htlm", "--out", out)
    with pytest.raises(UsageError, match="--features takes numbers, got 'twelve'"):
        export(index.path, "--to", "html", "--features", "twelve", "--out", out)
    with pytest.raises(UsageError, match="there is no feature 99999"):
        export(index.path, "--to", "html", "--features", "99999", "--out", out)
    with pytest.raises(UsageError, match="no features to export"):
        export(index.path, "--to", "html", "--features", ",", "--out", out)
    with pytest.raises(UsageError, match="go with --to neuronpedia"):
        export(index.path, "--to", "html", "--logits", "--out", out)
    with pytest.raises(FeatureIndexError, match="no feature index at"):
        export(tmp_path / "nothing", "--to", "html", "--out", out)
    assert not out.exists()
