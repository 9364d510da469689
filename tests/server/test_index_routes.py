"""What the API says of an index is what the index holds, in the types it promises."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel, TypeAdapter
from tests.server.conftest import write_labels

from saescope.features import FeatureIndex
from saescope.server import answers

CODER = "/api/coders/random"


def asked(client: TestClient, path: str, kind: Any) -> Any:
    """The answer, checked to be of the type that the documentation gives."""
    response = client.get(path)
    assert response.status_code == 200, response.text
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_validate_json(response.content, strict=True)
    return TypeAdapter(kind).validate_json(response.content)


def test_the_workspace_lists_its_coder(client: TestClient, index: FeatureIndex) -> None:
    found = asked(client, "/api/workspace", answers.WorkspaceAnswer)
    assert found.title == "work"
    assert not found.jobs
    (coder,) = found.coders
    assert (coder.id, coder.d_sae, coder.tokens) == ("random", index.d_sae, index.n_tokens)
    assert coder.live + coder.dead == coder.d_sae
    assert coder.live == np.count_nonzero(index.count)
    assert coder.fvu_centered == 0.25
    assert coder.metrics["fvu_centered"].controls == {"pca": 0.5, "frozen_random": 0.75}
    assert coder.metrics["fvu_centered"].interval == [0.2, 0.3]
    assert "kl" not in coder.metrics
    assert (coder.labels.source, coder.labels.count) == ("contrastive", 3)
    assert coder.can_run
    assert index.count[coder.first_feature] > 0


def test_a_feature_is_what_the_index_holds(client: TestClient, index: FeatureIndex) -> None:
    for feature in np.flatnonzero(index.count)[[0, 3, 9]].tolist():
        page = asked(client, f"{CODER}/features/{feature}", answers.Feature)
        assert page.count == index.count[feature]
        assert page.density == pytest.approx(index.density[feature], rel=1e-3)
        assert page.max == pytest.approx(index.maximum[feature], rel=1e-3)
        assert sum(page.histogram.counts) == page.count
        assert page.histogram.edges[-1] == pytest.approx(page.max, rel=1e-3)
        expected = index.examples(feature)
        assert [group.name for group in page.groups] == [group.name for group in expected]
        for number, (shown, group) in enumerate(zip(page.groups, expected, strict=True)):
            assert [context.position for context in shown.contexts] == group.positions[:: 1 if number == 0 else 2]
        assert [one.feature for one in page.coactive] == [f for f in index.arrays["coactive"][feature] if f >= 0]
        assert [one.token for one in page.outputs_top] == index.arrays["lens_top"][feature].tolist()
        assert sum(page.position_profile.share) == pytest.approx(1, abs=1e-3)
        assert sum(one.count for one in page.sources) == page.count
        assert all(0 <= one.density <= 1 for one in page.sources)
        assert page.example == page.groups[0].contexts[0]


def test_every_context_is_the_readers(client: TestClient, index: FeatureIndex) -> None:
    """Tokens, values and reach of every example of every feature, against the index's own slow way."""
    n_merged = 0
    for feature in range(0, index.d_sae, 7):
        page = asked(client, f"{CODER}/features/{feature}", answers.Feature)
        for context in (context for group in page.groups for context in group.contexts):
            own = index.context(feature, context.position)
            first = context.position - own.peak
            start, end = index.reach(context.position)
            positions = [token.p for token in context.tokens]
            assert positions == sorted(set(positions))
            assert first <= positions[0] <= positions[-1] < first + len(own.tokens)
            assert context.more_before == (first > start)
            assert context.more_after == (positions[-1] + 1 < end)
            # Runs of merged tokens: the largest value of each.
            bounds = [first, *(position + 1 for position in positions)]
            for token, low, high in zip(context.tokens[1:], bounds[1:-1], bounds[2:], strict=True):
                n_merged += high - low > 1
                assert token.v == pytest.approx(max(own.activations[low - first : high - first]), rel=1e-3)
                assert token.k == bool(index.arrays["kept"][low:high].any())
            assert context.tokens[context.peak].v >= context.value * 0.999
            assert context.value == pytest.approx(own.value, rel=1e-3)
            assert all(token.t for token in context.tokens)
    assert n_merged, "the text has characters of several tokens"


def test_hostile_text_of_the_corpus_is_text(client: TestClient, index: FeatureIndex) -> None:
    hostile = next(i for i, document in enumerate(index.documents) if "hostile" in document.title + document.source)
    where = np.flatnonzero((index.arrays["document"] == hostile) & (index.arrays["kept"] > 0))
    middle = int(where[len(where) // 2])
    joined = ""
    # One context of each sequence that the document is cut into.
    _, first = np.unique(index.arrays["sequence"][where], return_index=True)
    for position in where[first].tolist():
        context = asked(client, f"{CODER}/features/3/context?position={position}&before=256&after=256", answers.Context)
        joined += "".join(token.t for token in context.tokens)
        assert context.document.index == hostile
    for expected in ("<script>alert('x')</script>", "naïve café", "日本語", "😀", "שלום"):
        assert expected in joined
    assert not any(character in joined for character in "\0\x07\u202e\u202c")
    found = asked(client, f"{CODER}/positions/{middle}", answers.Position)
    features, values = index.at(middle)
    assert [one.feature for one in found.features] == features.tolist()
    assert [one.value for one in found.features] == pytest.approx(values.tolist(), rel=1e-3)
    # Wherever a page is asked for, it is never HTML.
    assert client.get(f"{CODER}/features/3").headers["content-type"] == "application/json"


def test_a_character_of_several_tokens_has_the_features_of_them_all(client: TestClient, index: FeatureIndex) -> None:
    """A page shows it as one, with one position to ask for."""
    offsets, tokens = index.arrays["sequence_offsets"].tolist(), index.arrays["tokens"]
    parts: set[int] = set()
    for first, end in pairwise(offsets):
        parts |= {first + i for i, text in enumerate(index.pieces(tokens[first:end].tolist())) if not text}
    found = 0
    for feature in np.flatnonzero(index.count).tolist():
        for position in sorted(parts.intersection(index.firings(feature).positions.tolist()))[:2]:
            path = f"{CODER}/features/{feature}/context?position={position}&before=8&after=8"
            context = asked(client, path, answers.Context)
            shown = context.tokens[context.peak]
            at = asked(client, f"{CODER}/positions/{shown.p}", answers.Position)
            assert at.token == shown.t
            values = {one.feature: one.value for one in at.features}
            assert values[feature] == pytest.approx(shown.v, rel=1e-2)
            assert list(values.values()) == sorted(values.values(), reverse=True)
            found += 1
    assert found > 5


def test_browsing_filters_and_sorts(client: TestClient, index: FeatureIndex) -> None:
    live = np.flatnonzero(index.count)
    everything = asked(client, f"{CODER}/features?limit=200", answers.Features)
    assert everything.total == len(live) == len(everything.items)
    densities = [card.density for card in everything.items]
    assert densities == sorted(densities, reverse=True)
    by_number = asked(client, f"{CODER}/features?sort=feature&limit=5&offset=3", answers.Features)
    assert [card.feature for card in by_number.items] == live[3:8].tolist()
    low, high = float(np.quantile(index.density[live], 0.3)), float(np.quantile(index.density[live], 0.6))
    between = asked(client, f"{CODER}/features?min_density={low}&max_density={high}&limit=200", answers.Features)
    assert {card.feature for card in between.items} == set(
        live[(index.density[live] >= low) & (index.density[live] <= high)].tolist()
    )
    scored = asked(client, f"{CODER}/features?min_score=0.5&sort=score", answers.Features)
    assert [card.feature for card in scored.items] == [0, 1]
    form = everything.items[0].form
    of_form = asked(client, f"{CODER}/features?form={form}&limit=200", answers.Features)
    assert {card.feature for card in of_form.items} == {card.feature for card in everything.items if card.form == form}
    labelled = asked(client, f"{CODER}/features?sort=label&limit=3", answers.Features)
    assert [card.feature for card in labelled.items] == [2, 1, 0]


def test_search_by_label_and_by_number(client: TestClient) -> None:
    fox = asked(client, f"{CODER}/features?q=FOX", answers.Features)
    assert [card.feature for card in fox.items] == [0]
    assert fox.items[0].relevance > 0
    assert asked(client, f"{CODER}/features?q=zebra", answers.Features).total == 0
    assert asked(client, f"{CODER}/features?q=17", answers.Features).items[0].feature == 17
    script = asked(client, f"{CODER}/features?q=%3Cscript%3E", answers.Features)
    assert script.items[0].label.text == "<script>alert(1)</script>"


def test_search_by_meaning_finds_features_of_the_words_around_them(client: TestClient, index: FeatureIndex) -> None:
    """A feature made of one token's firings is nearer to that token than the others are."""
    found = asked(client, f"{CODER}/features?q=lazy+dogs&by=meaning&limit=50", answers.Features)
    assert 1 in [card.feature for card in found.items]
    relevances = [card.relevance for card in found.items]
    assert relevances == sorted(relevances, reverse=True)
    assert asked(client, f"{CODER}/features?q=%F0%9F%A6%93&by=meaning", answers.Features).total >= 0


@pytest.mark.parametrize("query", ["'; DROP TABLE features; --", '" OR 1=1', "%", "a" * 1000, "\x00", "‮"])
def test_no_query_is_more_than_text(client: TestClient, query: str) -> None:
    for by in ("label", "meaning"):
        response = client.get(
            f"{CODER}/features", params={"q": query, "by": by, "list": query[:100], "form": query[:40]}
        )
        assert response.status_code == 200, response.text
    assert asked(client, f"{CODER}/features", answers.Features).total > 0


def test_overview_plots(client: TestClient, index: FeatureIndex) -> None:
    density = asked(client, f"{CODER}/density", answers.Histogram)
    assert sum(density.counts) == np.count_nonzero(index.count)
    assert len(density.edges) == len(density.counts) + 1
    found = asked(client, f"{CODER}/map", answers.FeatureMap)
    assert found.features == np.flatnonzero(index.count).tolist()
    assert len(found.x) == len(found.y) == len(found.density) == len(found.form) == len(found.features)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/coders/other/features/0", 404, "there is no coder 'other' here; there are random"),
        (f"{CODER}/features/100000", 404, "there is no feature 100000 in random"),
        (f"{CODER}/features/-1", 404, "there is no feature -1"),
        (f"{CODER}/features/x", 422, "f: "),
        (f"{CODER}/positions/99999999", 404, "there is no position 99999999"),
        (f"{CODER}/features/0/context?position=0&before=999", 422, "before: "),
        (f"{CODER}/features?limit=0", 422, "limit: "),
        (f"{CODER}/features?level={'9' * 40}", 422, "level: "),
        (f"{CODER}/features?level=32768", 422, "level: "),
        (f"{CODER}/features?sort=name", 422, "sort: "),
        ("/api/nothing", 404, "see /api/docs"),
        ("/api/coders/%F0%9F%92%A9/map", 404, "there is no coder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(client: TestClient, path: str, status: int, said: str) -> None:
    response = client.get(path)
    assert response.status_code == status
    detail = response.json()["detail"]
    assert said in detail
    assert "\n" not in detail


def test_newer_labels_are_seen(client: TestClient, index: FeatureIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked(client, f"{CODER}/features/0", answers.Feature)
    assert before.label.text == "the quick fox"
    write_labels(index.path, "2", [(0, "foxes, quick ones", "llm", 0.7)])
    coder = client.app.state.served.workspace.coders["random"]  # type: ignore[attr-defined]
    coder._labels_looked_at = 0.0
    after = asked(client, f"{CODER}/features/0", answers.Feature)
    assert (after.label.text, after.label.source) == ("foxes, quick ones", "llm")
    assert [card.feature for card in asked(client, f"{CODER}/features?q=foxes", answers.Features).items] == [0]
    # The others keep theirs.
    assert asked(client, f"{CODER}/features/1", answers.Feature).label.text == "lazy dogs"


def test_damaged_labels_are_told_and_the_old_ones_stay(client: TestClient, index: FeatureIndex) -> None:
    assert asked(client, f"{CODER}/features/0", answers.Feature).label is not None
    (index.path / "labels" / "2.parquet").write_bytes(b"PAR1 nothing")
    coder = client.app.state.served.workspace.coders["random"]  # type: ignore[attr-defined]
    coder._labels_looked_at = 0.0
    assert asked(client, f"{CODER}/features/0", answers.Feature).label.text == "the quick fox"
    (job,) = asked(client, "/api/jobs", list[answers.Job])
    assert job.state == "failed"
    assert "2.parquet" in job.message


def test_docs_are_offline_and_complete(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert {"/api/workspace", "/api/coders/{id}/steer", "/api/coders/{id}/features/{f}"} <= set(described["paths"])
    page = client.get("/api/docs").text
    assert all(path in page for path in described["paths"])
    assert "http" not in page
    feature = described["components"]["schemas"]["Feature"]["properties"]
    assert {"groups", "label_revision", "note"} <= set(feature)


def test_an_index_without_weights_is_served_too(
    tmp_path: Path, byte_tokenizer: Any, client_of: Callable[..., TestClient]
) -> None:
    from tests.features.index.built import tiny_index

    index = tiny_index(tmp_path, byte_tokenizer)
    for name in ("lens_top", "map", "form", "nearest_decoder", "neurons", "coactive"):
        (index.path / "arrays" / f"{name}.npy").unlink(missing_ok=True)
    import json

    manifest = json.loads((index.path / "manifest.json").read_text())
    gone = ("lens_top.npy", "map.npy", "form.npy", "nearest_decoder.npy", "neurons.npy", "coactive.npy")
    manifest["files"] = {
        name: file for name, file in manifest["files"].items() if not name.endswith(tuple(f"/{one}" for one in gone))
    }
    (index.path / "manifest.json").write_text(json.dumps(manifest))
    with client_of(tmp_path) as client:
        page = asked(client, f"{CODER}/features/1", answers.Feature)
        assert page.outputs_top == page.coactive == page.nearest_decoder == page.neurons == []
        assert asked(client, f"{CODER}/map", answers.FeatureMap).features == []
        assert asked(client, f"{CODER}/features", answers.Features).total > 0


def test_what_a_coarse_feature_splits_into_is_shown_from_both_sides(
    workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    arrays = workspace / "coder" / "index" / "arrays"
    pairs = {
        "coarse": np.int32([0, 0]),
        "fine": np.int32([9, 4]),
        "share": np.float32([0.9, 0.6]),
        "cosine": np.float32([1, 1]),
    }
    for name, values in pairs.items():
        np.save(arrays / f"split_{name}.npy", values)
    manifest = json.loads((workspace / "coder" / "index" / "manifest.json").read_text())
    manifest["files"] = {name: file for name, file in manifest["files"].items() if "split_" not in name}
    (workspace / "coder" / "index" / "manifest.json").write_text(json.dumps(manifest))
    with client_of(workspace) as client:
        coarse = asked(client, f"{CODER}/features/0", answers.Feature)
        assert [(one.feature, one.score) for one in coarse.splits_into] == [(9, 0.9), (4, 0.6)]
        fine = asked(client, f"{CODER}/features/4", answers.Feature)
        assert [(one.feature, one.score) for one in fine.split_of] == [(0, 0.6)]
        assert fine.split_of[0].label.text == "the quick fox"


def test_many_tabs_browse_at_once_and_each_gets_its_own_answer(client: TestClient, index: FeatureIndex) -> None:
    """Queries of several threads share one database; their filters and tables must not meet."""
    live = np.flatnonzero(index.count)
    expected = {
        f"sort=feature&limit=7&offset={offset}&min_density={low}": live[index.density[live] >= low][
            offset : offset + 7
        ].tolist()
        for offset in (0, 2, 5)
        for low in (0.0, float(np.median(index.density[live])))
    }
    expected["q=fox"] = [0]
    expected["q=dogs"] = [1]
    wrong: list[str] = []

    def browse(number: int) -> None:
        for turn in range(12):
            query = list(expected)[(number + turn) % len(expected)]
            found = [card["feature"] for card in client.get(f"{CODER}/features?{query}").json()["items"]]
            if found != expected[query]:
                wrong.append(f"{query}: {found}")

    threads = [threading.Thread(target=browse, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
