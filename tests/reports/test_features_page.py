"""The page of some features: whole, self-contained, and nothing of text or labels is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.features.index.built import HOSTILE, tiny_index
from tests.measured import tiny_lm
from tests.reports.test_page import Page
from transformers import PreTrainedTokenizerFast

from saescope.errors import UsageError
from saescope.features import FeatureIndex
from saescope.reports.features import features_page, write_features_page


@dataclass(frozen=True)
class Said:
    text: str
    kind: str = "contrastive"
    score: float | None = 0.75


@pytest.fixture(scope="module")
def index(bos_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return tiny_index(tmp_path_factory.mktemp("tiny"), bos_tokenizer, lm=tiny_lm(bos_tokenizer))


@pytest.fixture(scope="module")
def chosen(index: FeatureIndex) -> list[int]:
    """The commonest five, and one that never fires if there is one."""
    return [*np.argsort(-index.count)[:5].tolist(), *np.flatnonzero(index.count == 0)[:1].tolist()]


@pytest.fixture(scope="module")
def html(index: FeatureIndex, chosen: list[int]) -> str:
    return features_page(index, chosen, {chosen[0]: Said(HOSTILE), chosen[1]: Said("plain words", score=None)})


def test_page_is_whole_and_asks_nothing_of_the_network(html: str) -> None:
    page = Page(html)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not {"script", "link", "img", "iframe", "form", "textarea"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "action")]
        assert (attributes.get("href") or "#").startswith("#")
    assert "://" not in html
    assert "\0" not in html
    assert "\u202e" not in html


def test_every_feature_has_its_article_with_examples(html: str, index: FeatureIndex, chosen: list[int]) -> None:
    page = Page(html)
    articles = page.all("article", class_="feature")
    assert [one["id"] for one in articles] == [f"feature-{feature}" for feature in chosen]
    shown = sum(min(8, len(group.positions)) for feature in chosen for group in index.examples(feature))
    assert (
        sum(str(attributes.get("class", "")).startswith("t a") for tag, attributes in page.elements if tag == "mark")
        == shown
    )
    assert "plain words" in page.text
    assert "held-out balanced accuracy 0.75" in page.text
    for feature in chosen:
        assert f"({int(index.count[feature]):,})" in page.text or not index.count[feature]


def test_links_lead_to_features_of_the_page_only(html: str, chosen: list[int]) -> None:
    links = {attributes["href"] for tag, attributes in Page(html).elements if tag == "a"} - {"#main"}
    assert links <= {f"#feature-{feature}" for feature in chosen}


def test_names_from_an_index_someone_sent_stay_text(
    index: FeatureIndex, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {key: [HOSTILE] * len(found) for key, found in index.manifest.names.items()}
    monkeypatch.setattr(index, "manifest", index.manifest.model_copy(update={"names": names}))
    assert "<script>" not in features_page(index, chosen)
    assert "<img" not in features_page(index, chosen)


def test_page_is_written_whole_or_not_at_all(index: FeatureIndex, chosen: list[int], tmp_path: Path) -> None:
    path = write_features_page(index, tmp_path / "page.html", chosen[:1])
    assert path.read_text().startswith("<!doctype html>")
    assert f"<title>Feature {chosen[0]} of random" in path.read_text()
    with pytest.raises(UsageError, match="there is no feature 123456"):
        write_features_page(index, tmp_path / "other.html", [123456])
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
