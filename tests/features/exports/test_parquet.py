"""Parquet tables against the index, through DuckDB."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from tests.features.exports.test_neuronpedia import Said
from tests.features.index.built import tiny_index
from transformers import PreTrainedTokenizerFast

from saescope.errors import OccupiedError, UsageError
from saescope.features import FeatureIndex
from saescope.features.exports import write_parquet


@pytest.fixture(scope="module")
def index(bos_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return tiny_index(tmp_path_factory.mktemp("tiny"), bos_tokenizer)


def test_features_keep_their_order_and_have_their_labels(index: FeatureIndex, tmp_path: Path) -> None:
    live = np.flatnonzero(index.count).tolist()
    chosen = [live[5], live[0], live[5], live[2]]
    folder = write_parquet(index, tmp_path / "out", chosen, labels={live[0]: Said("lone \ud800 <b>")})
    rows = duckdb.sql(
        f"select feature, count, label, label_kind, label_score from '{folder}/features.parquet'"
    ).fetchall()
    assert [row[0] for row in rows] == [live[5], live[0], live[2]]
    assert [row[1] for row in rows] == index.count[[live[5], live[0], live[2]]].tolist()
    assert [row[2:] for row in rows] == [(None, None, None), ("lone ? <b>", "contrastive", 0.875), (None, None, None)]


def test_examples_are_the_indexs(index: FeatureIndex, tmp_path: Path) -> None:
    folder = write_parquet(index, tmp_path / "out")
    features = np.flatnonzero(index.count).tolist()
    found = duckdb.sql(f"select distinct feature from '{folder}/examples.parquet' order by 1").fetchall()
    assert [row[0] for row in found] == features
    feature = features[3]
    rows = duckdb.sql(
        f"select * from '{folder}/examples.parquet' where feature = {feature} "
        'order by "group" = \'strongest\' desc, "group", rank'
    ).fetchall()
    columns = duckdb.sql(f"select * from '{folder}/examples.parquet'").columns
    places = [(group.name, rank, at) for group in index.examples(feature) for rank, at in enumerate(group.positions)]
    assert len(rows) == len(places)
    for values, (group, rank, position) in zip(rows, places, strict=True):
        row = dict(zip(columns, values, strict=True))
        context = index.context(feature, position)
        assert (row["group"], row["rank"]) == (group, rank)
        assert row["text"] == "".join(row["tokens"]) == "".join(index.pieces(context.tokens))
        assert row["values"] == pytest.approx(context.activations)
        assert row["values"][row["peak"]] == pytest.approx(row["value"]) == pytest.approx(context.value)
        assert row["title"] == index.documents[row["document"]].title


def test_an_occupied_folder_and_unknown_features_are_refused(index: FeatureIndex, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OccupiedError):
        write_parquet(index, tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="there is no feature -1"):
        write_parquet(index, tmp_path / "out", [-1])
    assert not (tmp_path / "out").exists()
