"""A Matryoshka coder with a planted coarse feature, through the index to its readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from tests.features.index.built import tiny_coder, tiny_store
from tests.measured import tiny_lm
from tests.server.conftest import HEADERS, HERE
from transformers import PreTrainedTokenizerFast

from saescope.coders import SparseCoder, save
from saescope.features import FeatureIndex, StoreSource, build_index
from saescope.reports.features import features_page
from saescope.server import create_app

COARSE, FINE = 3, (30, 41)


def planted() -> SparseCoder:
    """Latent 3, of the first level, fires wherever 30 or 41 does, and writes what they have in common."""
    coder = tiny_coder(levels=[10, 60])
    with torch.no_grad():
        for weight in (coder.W_enc_rows, coder.W_dec):
            weight[FINE[1]] = torch.nn.functional.normalize(weight[FINE[0]] + 0.5 * weight[FINE[1]], dim=0)
            weight[COARSE] = torch.nn.functional.normalize(weight[FINE[0]] + weight[FINE[1]], dim=0)
        coder.extra("threshold")[[COARSE, *FINE]] = torch.tensor([0.6, 0.8, 0.8])
    return coder


@pytest.fixture(scope="module")
def index(bos_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    folder = tmp_path_factory.mktemp("splits")
    store, coder = tiny_store(folder, bos_tokenizer), planted()
    save(coder, folder / "coder")
    return build_index(coder, StoreSource(coder, store), folder / "coder" / "index", coder_path=folder / "coder")


def test_index_knows_what_a_coarse_feature_splits_into(index: FeatureIndex) -> None:
    assert index.arrays["level"].tolist() == [0] * 10 + [1] * 50
    found = dict(index.splits.into(COARSE))
    assert set(FINE) <= set(found)
    for fine, share in found.items():
        own, coarse = index.firings(fine).positions, index.firings(COARSE).positions
        assert share == pytest.approx(np.isin(own, coarse).mean(), abs=1e-6)
        assert COARSE in dict(index.splits.of(fine))
    # Nothing splits into its own level.
    assert all(
        index.arrays["level"][a] < index.arrays["level"][b]
        for a, b in zip(index.splits.coarse, index.splits.fine, strict=True)
    )


def test_page_and_server_say_so(index: FeatureIndex, bos_tokenizer: PreTrainedTokenizerFast) -> None:
    into = index.splits.into(COARSE)
    html = features_page(index, [COARSE, FINE[0]])
    assert f"splits into {into[0][0]}" in html or f'splits into <a href="#feature-{into[0][0]}">' in html
    assert f'part of <a href="#feature-{COARSE}">{COARSE}</a>' in html
    app = create_app(index.path.parent.parent, lm=tiny_lm(bos_tokenizer))
    with TestClient(app, base_url=HERE, headers=HEADERS) as client:
        (coder,) = client.get("/api/workspace").json()["coders"]
        coarse = client.get(f"/api/coders/{coder['id']}/features/{COARSE}").json()
        fine = client.get(f"/api/coders/{coder['id']}/features/{FINE[0]}").json()
    assert [one["feature"] for one in coarse["splits_into"]] == [feature for feature, _ in into]
    assert COARSE in [one["feature"] for one in fine["split_of"]]


def test_an_index_without_levels_has_no_splits(
    bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, index: FeatureIndex
) -> None:
    (tmp_path / "copy").symlink_to(index.path)
    assert FeatureIndex.open(tmp_path / "copy").splits.coarse.size > 0
    store, coder = tiny_store(tmp_path, bos_tokenizer), tiny_coder()
    flat = build_index(coder, StoreSource(coder, store), tmp_path / "index")
    assert flat.splits.into(0) == flat.splits.of(0) == []
