"""A workspace with an index of a tiny random model, its labels and its evaluation, and a client of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.features.index.built import tiny_index
from tests.measured import tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.features import FeatureIndex
from saescope.features import labels as labelling
from saescope.features.labels import Label, LabelTable
from saescope.lm import LanguageModel
from saescope.server import create_app

HERE = "http://127.0.0.1:8321"
HEADERS = {"X-Saescope": "1"}


def write_labels(index: Path, name: str, rows: list[tuple[int, str, str, float | None]]) -> Path:
    """A labelling run called `name`: feature, text, kind ("contrastive" or "llm"; the first one's is the run's), score."""
    kind = rows[0][2]
    labels = tuple(Label(feature, text, score, kind=own, version=name) for feature, text, own, score in rows)
    return labelling.write_labels(FeatureIndex.open(index), LabelTable(labels, kind, name))


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
