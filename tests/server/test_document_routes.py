"""A document's text is what the index's arrays say position by position, however it is cut into pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.server.test_index_routes import CODER, asked

from saescope.features import FeatureIndex
from saescope.features.labels import Label, LabelTable, write_labels
from saescope.server import answers
from saescope.server.plain_text import plain


def pages_of(client: TestClient, document: int, query: str, limit: int) -> list[answers.DocumentText]:
    pages: list[answers.DocumentText] = []
    while not pages or len(pages) * limit < pages[0].length:
        path = f"{CODER}/documents/{document}?{query}&offset={len(pages) * limit}&limit={limit}"
        pages.append(asked(client, path, answers.DocumentText))
    return pages


def tokens_of(page: answers.DocumentText) -> list[answers.ContextToken]:
    return [token for stretch in page.stretches for token in stretch.tokens]


@pytest.mark.parametrize("limit", [16, 37, 2000])
def test_the_pages_of_a_document_are_its_text(client: TestClient, index: FeatureIndex, limit: int) -> None:
    arrays = {name: np.asarray(index.arrays[name]) for name in ("document", "tokens", "kept", "sequence")}
    feature = int(np.argsort(index.count)[-3])
    activations = np.zeros(index.n_positions, np.float32)
    activations[index.firings(feature).positions] = index.firings(feature).values
    n_merged = n_cut = 0
    for number, known in enumerate(index.documents):
        own = np.flatnonzero(arrays["document"] == number)
        pages = pages_of(client, number, f"feature={feature}", limit)
        tokens = [token for page in pages for token in tokens_of(page)]
        assert "".join(token.t for token in tokens) == plain("".join(index.pieces(arrays["tokens"][own].tolist())))
        # Every position is in one token: that of its character's end.
        positions = [token.p for token in tokens]
        assert positions == sorted(set(positions))
        assert set(positions) <= set(own.tolist())
        assert (positions[-1] if positions else None) == (own[-1] if len(own) else None)
        place = dict(zip(own.tolist(), range(len(own)), strict=True))
        low = 0
        for token in tokens:
            run = own[low : place[token.p] + 1]
            n_merged += len(run) > 1
            assert token.v == pytest.approx(activations[run].max(), rel=1e-3)
            assert token.k == bool(arrays["kept"][run].any())
            low = place[token.p] + 1
        assert {page.length for page in pages} == {len(own)}
        assert {page.whole for page in pages} == {known.n_tokens}

        fires = own[activations[own] > 0]
        assert sum(page.firings.here for page in pages) == len(fires)
        for page in pages:
            assert page.firings.total == len(fires)
            here = [token.p for token in tokens_of(page)]
            if not here:
                continue
            first = 0 if page is pages[0] else place[tokens_of(pages[pages.index(page) - 1])[-1].p] + 1
            n_cut += first % limit > 0
            begin, end = own[first], here[-1]
            assert page.firings.here == np.sum((fires >= begin) & (fires <= end))
            for told, expected in (
                (page.firings.previous, fires[fires < begin][-1:]),
                (page.firings.next, fires[fires > end][:1]),
            ):
                assert ([] if told is None else [told.position]) == expected.tolist()
                assert told is None or told.place == place[told.position]
                assert told is None or told.value == pytest.approx(activations[told.position], rel=1e-3)
            strongest = page.firings.strongest
            assert (strongest.value if strongest else 0) == pytest.approx(activations[own].max(initial=0), rel=1e-3)
            part = page.firings.part
            assert page.firings.parts == [
                sum(place[one] // part == i for one in fires.tolist()) for i in range(-(-len(own) // part))
            ]
            for stretch in page.stretches:
                # The stretch's end is in one sequence, and what is before it is what is said.
                last = place[stretch.tokens[-1].p]
                same = arrays["sequence"][own[: last + 1]] == arrays["sequence"][own[last]]
                start = int(np.argmax(same))
                expected = "page" if start < first else "document" if start == 0 else "sequence"
                assert stretch.begins == expected
    assert n_merged
    assert limit == 2000 or n_cut, "no page would have begun inside a character"


def test_a_place_opens_its_own_page(client: TestClient, index: FeatureIndex) -> None:
    for number in (0, len(index.documents) - 1):
        own = np.flatnonzero(np.asarray(index.arrays["document"]) == number)
        pages = {page.offset: page for page in pages_of(client, number, "", 16)}
        for position in own[:90].tolist():
            page = asked(client, f"{CODER}/documents/{number}?at={position}&limit=16", answers.DocumentText)
            assert page == pages[page.offset]
            before = [
                token.p
                for page in pages.values()
                if page.offset < pages[page.offset].offset
                for token in tokens_of(page)
            ]
            assert position <= tokens_of(page)[-1].p
            assert all(position > one for one in before)
            earlier = page.offset - 16
            assert earlier < 0 or position > tokens_of(pages[earlier])[-1].p
            assert page.feature is None
            assert page.firings is None
            assert all(token.v == 0 for token in tokens_of(page))


def test_tokens_of_others_within_a_sequence_are_a_gap(workspace: Path, client_of: Callable[..., TestClient]) -> None:
    path = workspace / "coder" / "index" / "arrays" / "document.npy"
    document = np.load(path)
    own = np.flatnonzero(document == 0)
    document[own[5:8]] = -1
    np.save(path, document)
    with client_of(workspace) as client:
        page = asked(client, f"{CODER}/documents/0", answers.DocumentText)
    assert [stretch.begins for stretch in page.stretches[:3]] == ["document", "gap", "sequence"]
    assert page.stretches[1].place == 5
    assert page.stretches[1].tokens[0].p >= own[8]
    assert page.whole - page.length >= 3


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("documents/999", 404, "there is no document 999 in random"),
        ("documents/-1", 404, "there is no document -1"),
        ("documents/0?feature=100000", 404, "there is no feature 100000"),
        ("documents/0?offset=999999", 404, "there is none at 999,999"),
        ("documents/0?at=99999999999999999999999", 404, "is not in document 0"),
        ("documents/0?limit=5000", 422, "limit: "),
        ("documents/0?limit=1", 422, "limit: "),
        ("documents/x", 422, "d: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(client: TestClient, query: str, status: int, said: str) -> None:
    response = client.get(f"{CODER}/{query}")
    assert response.status_code == status, response.text
    assert said in response.json()["detail"]


def test_positions_are_looked_at_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from saescope.features.index.places import TextPlaces

    looks: list[int] = []
    look = TextPlaces.of
    monkeypatch.setattr(TextPlaces, "of", staticmethod(lambda *given: looks.append(1) or look(*given)))
    for number in (0, 1, 2, 1):
        client.get(f"{CODER}/documents/{number}?feature=1")
    assert looks == [1]


def test_a_features_label_has_its_interval_and_controls(
    workspace: Path, index: FeatureIndex, client_of: Callable[..., TestClient]
) -> None:
    controls = {"random_label": 0.49871, "top_token": 0.7, "odd": float("nan")}
    label = Label(0, "foxes", 0.91234, (0.85, 0.95), controls, version="3")
    write_labels(index, LabelTable((label,), "contrastive", "3"))
    with client_of(workspace) as client:
        shown = asked(client, f"{CODER}/features/0", answers.Feature).label
        assert (shown.score, shown.interval) == (0.912, [0.85, 0.95])
        assert shown.controls == {"random_label": 0.499, "top_token": 0.7}
        assert asked(client, f"{CODER}/features/1", answers.Feature).label.controls == {}
        # Cards keep the short form; a person's label has no score.
        cards = {card.feature: card for card in asked(client, f"{CODER}/features?limit=200", answers.Features).items}
        assert type(cards[0].label) is answers.Label
        assert cards[0].label.score == 0.912
        client.put(f"{CODER}/features/0/label", json={"text": "mine", "revision": 0})
        mine = asked(client, f"{CODER}/features/0", answers.Feature).label
        assert (mine.text, mine.score, mine.interval, mine.controls) == ("mine", None, None, {})
