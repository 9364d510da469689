"""Labels, notes, stars and lists over HTTP: revisions, conflicts, hostile text, and what the page shows afterwards."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.server.conftest import HERE

from saescope.server import answers

CODER = "/api/coders/random"
FEATURE = f"{CODER}/features/0"


def page(client: TestClient, feature: int = 0) -> answers.Feature:
    response = client.get(f"{CODER}/features/{feature}")
    assert response.status_code == 200, response.text
    return answers.Feature.model_validate_json(response.content, strict=True)


def test_a_file_that_another_process_writes_is_told_and_not_waited_for_long(
    client: TestClient, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.server.people._PATIENCE", 0.2)
    other = sqlite3.connect(workspace / "people.sqlite3", isolation_level=None)
    with closing(other):
        page(client)
        other.execute("BEGIN IMMEDIATE")
        response = client.put(f"{FEATURE}/note", json={"text": "a", "revision": 0})
        assert response.status_code == 503
        assert response.json()["detail"].startswith("another process is writing")
        assert page(client).note.text == ""
        other.execute("ROLLBACK")
    assert client.put(f"{FEATURE}/note", json={"text": "a", "revision": 0}).status_code == 200


def test_a_read_only_folder_is_served(
    workspace: Path, client_of: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_of(workspace) as client:
        client.put(f"{FEATURE}/label", json={"text": "red foxes", "revision": 0})
    monkeypatch.setattr("saescope.server.people._is_writable", lambda path: False)
    with client_of(workspace) as client:
        assert page(client).label.text == "red foxes"
        assert client.get(f"{CODER}/features?q=red").json()["total"] == 1
        response = client.put(f"{FEATURE}/note", json={"text": "a", "revision": 0})
        assert response.status_code == 403
        assert "cannot be written to" in response.json()["detail"]


def test_a_label_is_written_shown_found_and_taken_back(client: TestClient) -> None:
    assert page(client).label_revision == 0
    kept = client.put(f"{FEATURE}/label", json={"text": " red \n foxes ", "revision": 0})
    answers.LabelKept.model_validate_json(kept.content, strict=True)
    assert kept.json() == {"label": {"text": "red foxes", "source": "person", "score": None}, "revision": 1}
    shown = page(client)
    assert (shown.label.text, shown.label_revision) == ("red foxes", 1)
    assert [(one.text, one.source) for one in shown.label_history] == [
        ("red foxes", "person"),
        ("the quick fox", "contrastive"),
    ]
    found = client.get(f"{CODER}/features?q=red").json()
    assert [card["label"]["text"] for card in found["items"]] == ["red foxes"]
    assert client.get(f"{CODER}/features?q=quick").json()["total"] == 0
    back = client.put(f"{FEATURE}/label", json={"text": "", "revision": 1}).json()
    assert back == {"label": {"text": "the quick fox", "source": "contrastive", "score": 0.9}, "revision": 2}
    assert client.get(f"{CODER}/features?q=quick").json()["total"] == 1


def test_who_comes_second_is_told_and_loses_nothing(client: TestClient) -> None:
    assert client.put(f"{FEATURE}/label", json={"text": "mine", "revision": 0}).status_code == 200
    late = client.put(f"{FEATURE}/label", json={"text": "yours", "revision": 0})
    assert late.status_code == 409
    assert "kept in its history" in late.json()["detail"]
    shown = page(client)
    assert shown.label.text == "mine"
    assert [(one.text, one.source) for one in shown.label_history][:2] == [("yours", "conflict"), ("mine", "person")]


def test_eight_tabs_write_at_once_and_none_is_lost(client: TestClient) -> None:
    statuses: list[tuple[str, int]] = []

    def write(number: int) -> None:
        for turn in range(6):
            text = f"tab {number} turn {turn}"
            revision = client.get(FEATURE).json()["label_revision"]
            response = client.put(f"{FEATURE}/label", json={"text": text, "revision": revision})
            statuses.append((text, response.status_code))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 48
    assert {status for _, status in statuses} <= {200, 409}
    shown = page(client)
    history = {one.text: one.source for one in shown.label_history}
    for text, status in statuses:
        assert history[text] == ("person" if status == 200 else "conflict")
    assert shown.label_revision == sum(status == 200 for _, status in statuses)


def test_notes_stars_and_lists_are_there_after_a_reload(
    client: TestClient, workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    assert client.put(f"{FEATURE}/note", json={"text": "two\nlines", "revision": 0}).json() == {
        "text": "two\nlines",
        "revision": 1,
    }
    assert client.put(f"{FEATURE}/star", json={"starred": True}).json() == {"starred": True}
    assert client.put(f"{FEATURE}/lists", json={"lists": ["foxes", "animals", "foxes"]}).json() == {
        "lists": ["animals", "foxes"]
    }
    assert client.get("/api/lists").json() == {
        "lists": [{"name": "animals", "count": 1}, {"name": "foxes", "count": 1}]
    }
    with client_of(workspace) as again:
        shown = page(again)
        assert shown.starred
        assert shown.note == answers.Revised(text="two\nlines", revision=1)
        assert shown.lists == ["animals", "foxes"]
        for query in ("starred=1", "list=foxes"):
            assert [card["feature"] for card in again.get(f"{CODER}/features?{query}").json()["items"]] == [0]
        assert again.get(f"{CODER}/features?list=other").json()["total"] == 0
        again.put(f"{FEATURE}/star", json={"starred": False})
        assert again.get(f"{CODER}/features?starred=1").json()["total"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "before\0after",
        "\u202egpj.exe",
        "half \ud800 character",
        "שלום",
        "x" * 900,
        "'; --",
    ],
)
def test_hostile_text_is_text(client: TestClient, text: str) -> None:
    # As a browser sends it: JSON can carry half a character, UTF-8 cannot.
    body = json.dumps({"text": text, "revision": 0})
    for subject in ("label", "note"):
        response = client.put(f"{FEATURE}/{subject}", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text
    put_lists = {"content": json.dumps({"lists": [text[:200]]}), "headers": {"content-type": "application/json"}}
    assert client.put(f"{FEATURE}/lists", **put_lists).status_code == 200  # type: ignore[arg-type]
    shown = page(client)
    for kept in (shown.label.text, shown.note.text, client.get(FEATURE).json()["lists"][0]):
        assert len(kept) in (len(text), 200)
        assert not any(bad in kept for bad in ("\0", "\u202e", "\ud800"))
    if "<" in text:
        assert shown.label.text == text
    assert client.get(f"{CODER}/features", params={"q": shown.label.text}).json()["items"][0]["feature"] == 0


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("label", {"text": "x" * 1001, "revision": 0}, 422),
        ("label", {"text": "x"}, 422),
        ("label", {"text": "x", "revision": -1}, 422),
        ("label", {"text": "x", "revision": 0, "more": 1}, 422),
        ("note", {"text": "x" * 20_001, "revision": 0}, 422),
        ("note", {"text": "x" * 70_000, "revision": 0}, 413),
        ("note", {"text": "é" * 1_000_000, "revision": 0}, 413),
        ("lists", {"lists": ["x"] * 101}, 422),
        ("star", {"starred": "perhaps"}, 422),
        ("star", [], 422),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_line(client: TestClient, path: str, body: Any, status: int) -> None:
    response = client.put(f"{FEATURE}/{path}", json=body)
    assert response.status_code == status, response.text
    assert "\n" not in response.json()["detail"]
    assert page(client).label.text == "the quick fox"


def test_broken_json_is_refused(client: TestClient) -> None:
    response = client.put(f"{FEATURE}/label", content=b'{"text": "x', headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert "\n" not in response.json()["detail"]


def test_labels_survive_a_new_index_of_the_same_coder(
    client: TestClient, workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    client.put(f"{FEATURE}/label", json={"text": "mine", "revision": 0})
    (workspace / "coder" / "index").rename(workspace / "elsewhere")
    with client_of(workspace) as again:
        assert page(again).label.text == "mine"
        assert str(again.base_url) == HERE
