"""A workspace with an index of a tiny random model, its labels and its evaluation, and a client of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from tests.features.index.built import tiny_index
from tests.measured import tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.features import FeatureIndex
from saescope.lm import LanguageModel
from saescope.server import create_app

HERE = "http://127.0.0.1:8321"
HEADERS = {"X-Saescope": "1"}


def write_labels(index: Path, name: str, rows: list[tuple[int, str, str, float | None]]) -> Path:
    feature, text, source, score = (list(column) for column in zip(*rows, strict=True))
    table = pa.table(
        {
            "feature": pa.array(feature, pa.int32()),
            "text": pa.array(text, pa.string()),
            "source": pa.array(source, pa.string()),
            "score": pa.array(score, pa.float32()),
            "parts": pa.array(["{}"] * len(feature), pa.string()),
        }
    )
    path = index / "labels" / f"{name}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="session")
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: PreTrainedTokenizerFast, lm: LanguageModel) -> Path:
    """A workspace as it is on disk; never served itself."""
    folder = tmp_path_factory.mktemp("workspace") / "work"
    folder.mkdir()
    index = tiny_index(folder, byte_tokenizer, lm=lm)
    labels: list[tuple[int, str, str, float | None]] = [
        (0, "the quick fox", "contrastive", 0.9),
        (1, "lazy dogs", "contrastive", 0.6),
        (2, "<script>alert(1)</script>", "contrastive", None),
    ]
    write_labels(index.path, "1", labels)
    record = {
        "schema": 2,
        "coder": {"name": "random", "fvu_centered": 0.25, "l0": 7.5, "kl": None},
        "controls": {
            "pca": {"fvu_centered": 0.5},
            "neurons": {"absent": "no"},
            "frozen_random": {"fvu_centered": 0.75},
        },
        "intervals": {"coder": {"fvu_centered": [0.2, 0.3]}},
    }
    (folder / "eval").mkdir()
    (folder / "eval" / "metrics.json").write_text(json.dumps([record]))
    return folder


@pytest.fixture
def workspace(built: Path, tmp_path: Path) -> Path:
    """A copy, to be changed at will."""
    folder = tmp_path / "work"
    shutil.copytree(built, folder)
    return folder


@pytest.fixture
def index(workspace: Path) -> FeatureIndex:
    return FeatureIndex.open(workspace / "coder" / "index")


@pytest.fixture
def client_of(lm: LanguageModel) -> Callable[..., TestClient]:
    def make(folder: Path, **options: Any) -> TestClient:
        app = create_app(folder, **{"lm": lm, **options})
        return TestClient(app, base_url=HERE, headers=HEADERS, raise_server_exceptions=False)

    return make


@pytest.fixture
def client(workspace: Path, client_of: Callable[..., TestClient]) -> Iterator[TestClient]:
    with client_of(workspace) as found:
        yield found
