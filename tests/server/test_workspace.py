"""What is found below a folder, what is refused and by which name, and what happens while it is open."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from fastapi.testclient import TestClient
from tests.server.conftest import write_labels

from saescope.activations import KeptRule
from saescope.errors import FeatureIndexError, WorkspaceError
from saescope.evaluation.measurement import Measurement
from saescope.evaluation.subject import Subject
from saescope.features import FeatureIndex
from saescope.features.index.manifest import KIND
from saescope.features.index.progress import kept_progress
from saescope.server import Workspace, jobs
from saescope.server import workspace as workspaces
from saescope.server.people import People


def named_again(index: FeatureIndex) -> str:
    """The id of a second coder, or index, of the name `random`."""
    return f"random-{index.manifest.coder.fingerprint[:6]}"


def another_coder(workspace: Path, folder: str = "zcoder") -> str:
    """Make a coder of the same name with an index of its own, somewhat later; its fingerprint."""
    shutil.copytree(workspace / "coder", workspace / folder)
    path = workspace / folder / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["coder"] |= {"fingerprint": "0" * 64, "path": ""}
    path.write_text(json.dumps(manifest))
    return "0" * 64


def numbers_of(client: TestClient) -> dict[str, float | None]:
    return {coder["id"]: coder["fvu_centered"] for coder in client.get("/api/workspace").json()["coders"]}


def test_a_folder_an_index_and_what_lies_between(workspace: Path, index: FeatureIndex) -> None:
    for folder in (workspace, workspace / "coder", workspace / "coder" / "index"):
        assert list(Workspace(folder).coders) == ["random"]
    shutil.copytree(workspace / "coder" / "index", workspace / "deeper" / "down" / "index")
    assert list(Workspace(workspace).coders) == ["random", named_again(index)]


def test_a_folder_without_an_index_says_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(WorkspaceError, match="saescope index") as caught:
            Workspace(folder)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing is written where nothing is served"
    (tmp_path / "manifest.json").write_text('{"kind": "something else"}')
    with pytest.raises(WorkspaceError, match="no finished feature index"):
        Workspace(tmp_path)


@pytest.mark.parametrize(
    "name", ["arrays/feature_values.npy", "arrays/tokens.npy", "features.parquet", "documents.parquet", "manifest.json"]
)
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_index_is_refused_by_the_files_name(workspace: Path, name: str, how: str) -> None:
    path = workspace / "coder" / "index" / name
    if how == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    expected = WorkspaceError if (name, how) == ("manifest.json", "gone") else FeatureIndexError
    with pytest.raises(expected) as caught:
        Workspace(workspace)
    assert "\n" not in str(caught.value)
    if expected is FeatureIndexError:
        assert Path(name).name in str(caught.value)


def test_one_damaged_index_does_not_take_the_others_along(
    workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    shutil.copytree(workspace / "coder" / "index", workspace / "broken")
    (workspace / "broken" / "arrays" / "tokens.npy").unlink()
    with client_of(workspace) as client:
        found = client.get("/api/workspace").json()
        assert [coder["id"] for coder in found["coders"]] == ["random"]
        (job,) = found["jobs"]
        assert job["state"] == "failed"
        assert "tokens.npy" in job["message"]


def test_content_that_is_damaged_behind_its_length_is_named_too(
    workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    path = workspace / "coder" / "index" / "features.parquet"
    path.write_bytes(b"\0" * path.stat().st_size)
    with client_of(workspace) as client:
        response = client.get("/api/coders/random/features")
        assert response.status_code == 500
        assert "features.parquet" in response.json()["detail"]
        assert client.get("/api/coders/random/features/0").status_code == 200


def test_indexes_come_and_go_while_it_is_open(workspace: Path, index: FeatureIndex) -> None:
    opened = Workspace(workspace)
    shutil.copytree(workspace / "coder" / "index", workspace / "second")
    opened.refresh()
    assert list(opened.coders) == ["random"], "not looked again at once"
    opened._scanned = 0.0
    opened.refresh()
    assert list(opened.coders) == ["random", named_again(index)]
    shutil.rmtree(workspace / "second")
    opened._scanned = 0.0
    opened.refresh()
    assert list(opened.coders) == ["random"]


def test_an_index_that_is_built_anew_is_opened_anew(workspace: Path) -> None:
    opened = Workspace(workspace)
    before = opened.coders["random"].index
    manifest = workspace / "coder" / "index" / "manifest.json"
    os.utime(manifest, ns=(1, manifest.stat().st_mtime_ns + 10**9))
    opened._scanned = 0.0
    opened.refresh()
    assert opened.coders["random"].index is not before


def test_an_evaluation_that_comes_later_is_shown(workspace: Path, client_of: Callable[..., TestClient]) -> None:
    path = workspace / "eval" / "metrics.json"
    record = json.loads(path.read_text())
    record[0]["coder"]["fvu_centered"] = 0.125
    path.write_text(json.dumps(record[0]))
    (workspace / "eval2").mkdir()
    (workspace / "eval2" / "metrics.json").write_text("not JSON")
    with client_of(workspace) as client:
        assert client.get("/api/workspace").json()["coders"][0]["fvu_centered"] == 0.125


def test_numbers_are_of_the_coder_that_was_measured_not_of_one_of_its_name(
    workspace: Path, index: FeatureIndex, client_of: Callable[..., TestClient]
) -> None:
    path = workspace / "eval" / "metrics.json"
    (record,) = json.loads(path.read_text())
    other = another_coder(workspace)
    with client_of(workspace) as client:
        assert numbers_of(client) == {"random": None, "random-000000": None}, "which of them is not known"
    record["coder"]["fingerprint"] = other
    mine = {**record, "coder": {**record["coder"], "fvu_centered": 0.5}}
    mine["coder"]["fingerprint"] = index.manifest.coder.fingerprint
    path.write_text(json.dumps([mine, record]))
    with client_of(workspace) as client:
        assert numbers_of(client) == {"random": 0.5, "random-000000": 0.25}
    # The only one of its name, but not of its size.
    shutil.rmtree(workspace / "zcoder")
    del record["coder"]["fingerprint"]
    path.write_text(json.dumps([{**record, "coder": {**record["coder"], "d_sae": 7}}]))
    with client_of(workspace) as client:
        assert numbers_of(client) == {"random": None}


def test_what_eval_writes_has_the_fingerprint_that_the_index_has(workspace: Path, index: FeatureIndex) -> None:
    subject = Subject.of(workspace / "coder")
    rule = KeptRule.from_dict(subject.coder.metadata.kept_rule)
    measured = Measurement(subject, rule, torch.zeros(4, subject.coder.d_in), 1, n_contexts=1, seed=0, no_controls="no")
    assert measured.coder_record()["fingerprint"] == index.manifest.coder.fingerprint


def test_an_id_stays_with_its_coder_whatever_its_folder_is_called(workspace: Path) -> None:
    other = another_coder(workspace)
    before = {identity: coder.fingerprint for identity, coder in Workspace(workspace).coders.items()}
    assert before["random-000000"] == other
    (workspace / "zcoder").rename(workspace / "acoder")
    assert {identity: coder.fingerprint for identity, coder in Workspace(workspace).coders.items()} == before


@pytest.mark.parametrize(
    "record",
    [
        {"controls": []},
        {"controls": {"pca": 3}},
        {"intervals": None},
        {"intervals": {"coder": []}},
        {"intervals": {"coder": {"fvu_centered": [math.nan, 1]}}},
        {"intervals": {"coder": {"fvu_centered": [1]}}},
        {"coder": {"name": "random", "l0": 10**400, "fvu_centered": 0.25}},
    ],
)
def test_numbers_that_are_not_as_they_should_be_are_left_out(
    workspace: Path, client_of: Callable[..., TestClient], record: dict[str, object]
) -> None:
    path = workspace / "eval" / "metrics.json"
    path.write_text(json.dumps({"coder": {"name": "random", "fvu_centered": 0.25}, **record}))
    with client_of(workspace) as client:
        assert numbers_of(client) == {"random": 0.25}


def test_a_build_under_way_is_a_job(workspace: Path, client_of: Callable[..., TestClient]) -> None:
    building = workspace / "building"
    shutil.copytree(workspace / "coder" / "index", building)
    manifest = json.loads((building / "manifest.json").read_text())
    (building / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    progress = {"stage": "encode", "done": 5, "total": 10, "pid": os.getpid(), "updated": "now"}
    (building / "progress.json").write_text(json.dumps(progress))
    with client_of(workspace) as client:
        (job,) = client.get("/api/jobs").json()
        assert (job["kind"], job["stage"], job["done"], job["total"], job["state"]) == (
            "index",
            "encode",
            5,
            10,
            "running",
        )
        (building / "progress.json").write_text(json.dumps({**progress, "pid": 2**22 + 12345}))
        client.app.state.served.workspace._scanned = 0.0  # type: ignore[attr-defined]
        (job,) = client.get("/api/jobs").json()
        assert job["state"] == "failed"
        assert "unfinished" in job["message"]


def test_whether_a_process_lives_is_asked_without_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows a signal of number 0 interrupts it."""

    def signalled(*arguments: object) -> None:
        raise AssertionError("a signal was sent")

    monkeypatch.setattr(psutil, "pid_exists", lambda pid: pid == 7)
    monkeypatch.setattr(os, "kill", signalled)
    assert [jobs._is_alive(pid) for pid in (7, 8, -1, "7", None)] == [True, False, False, False, False]


def test_labelling_by_another_process_is_a_job_while_it_lasts(
    workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    index = workspace / "coder" / "index"
    with client_of(workspace) as client:
        assert client.get("/api/jobs").json() == []
        with kept_progress(index, "label") as tell:
            tell("score", 30, 60)
            (job,) = client.get("/api/jobs").json()
            assert (job["kind"], job["stage"], job["done"], job["total"], job["state"]) == (
                "label",
                "score",
                30,
                60,
                "running",
            )
        assert client.get("/api/jobs").json() == []
        # What a killed process left behind is nothing under way.
        (index / "progress.json").write_text(
            json.dumps({"kind": "label", "stage": "score", "done": 1, "total": 2, "pid": 2**22 + 12345})
        )
        assert client.get("/api/jobs").json() == []


@pytest.mark.parametrize(
    ("manifest", "progress"),
    [({"coder": ["no"]}, {}), ({"coder": {}}, {"done": "some", "total": None, "pid": 10**30}), ({}, ["no"])],
)
def test_a_beginning_that_cannot_be_understood_is_a_failed_job(
    workspace: Path, client_of: Callable[..., TestClient], manifest: dict[str, object], progress: object
) -> None:
    (workspace / "begun").mkdir()
    (workspace / "begun" / "manifest.json").write_text(json.dumps({"kind": KIND, "complete": False, **manifest}))
    (workspace / "begun" / "progress.json").write_text(json.dumps(progress))
    with client_of(workspace) as client:
        (job,) = client.get("/api/jobs").json()
    assert (job["coder"], job["done"], job["total"], job["state"]) == ("begun", 0, 0, "failed")


def test_a_look_at_the_folder_disturbs_nobody_who_goes_over_what_was_found(
    workspace: Path, index: FeatureIndex
) -> None:
    opened = Workspace(workspace)
    for _ in opened.coders.values():
        shutil.copytree(workspace / "coder" / "index", workspace / "second")
        opened.scan()
    assert list(opened.coders) == ["random", named_again(index)]


def test_many_who_ask_at_once_look_at_the_folder_once(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Workspace(workspace)
    looks: list[int] = []
    walk = workspaces._walk

    def slow(folder: Path) -> Iterator[Path]:
        looks.append(1)
        time.sleep(0.1)
        yield from walk(folder)

    monkeypatch.setattr(workspaces, "_walk", slow)
    opened._scanned = 0.0
    threads = [threading.Thread(target=opened.refresh) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1


def test_labels_that_could_not_be_put_into_the_search_are_tried_again(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = Workspace(workspace).coders["random"]

    def locked(*arguments: object) -> None:
        raise WorkspaceError("people.sqlite3 cannot be used: database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(People, "load_automatic", locked)
        with pytest.raises(WorkspaceError, match="locked"):
            coder.search("lazy")
        assert coder.labels.by_feature[1].text == "lazy dogs", "pages do not need the search"
    assert coder.search("lazy")


def test_a_search_finds_the_labels_of_its_own_index(
    workspace: Path, index: FeatureIndex, client_of: Callable[..., TestClient]
) -> None:
    """Two indexes of one coder share what people write, not what was labelled automatically."""
    shutil.copytree(workspace / "coder" / "index", workspace / "second", ignore=shutil.ignore_patterns("labels"))
    write_labels(workspace / "second", "9", [(5, "zebra crossing", "contrastive", 0.9)])
    second = named_again(index)

    def found(client: TestClient, coder: str, query: str) -> list[int]:
        answer = client.get(f"/api/coders/{coder}/features?q={query}").json()
        return [item["feature"] for item in answer["items"]]

    with client_of(workspace) as client:
        for _ in range(2):
            assert (found(client, "random", "lazy"), found(client, "random", "zebra")) == ([1], [])
            assert (found(client, second, "lazy"), found(client, second, "zebra")) == ([], [5])
        client.put("/api/coders/random/features/7/label", json={"text": "zebra stripes", "revision": 0})
        assert found(client, "random", "zebra") == [7]
        assert found(client, second, "zebra") == [5, 7]
    shutil.rmtree(workspace / "second" / "labels")
    shutil.rmtree(workspace / "coder" / "index" / "labels")
    with client_of(workspace) as client:
        assert found(client, "random", "zebra") == found(client, second, "zebra") == [7]
        assert found(client, "random", "lazy") == []


def test_labelling_is_a_job(workspace: Path, client_of: Callable[..., TestClient]) -> None:
    begun, go = threading.Event(), threading.Event()

    def labeller(coder: object, tell: Callable[[str, int, int], None]) -> None:
        tell("windows", 3, 9)
        begun.set()
        go.wait(10)

    with client_of(workspace, labellers={"contrastive": labeller}) as client:
        job = client.post("/api/coders/random/label-job", json={"kind": "contrastive"}).json()
        begun.wait(10)
        again = client.post("/api/coders/random/label-job", json={"kind": "contrastive"}).json()
        assert again["id"] == job["id"]
        assert (again["stage"], again["done"], again["total"], again["state"]) == ("windows", 3, 9, "running")
        go.set()
        client.app.state.served.jobs._own[0].thread.join(10)  # type: ignore[attr-defined]
        assert client.get("/api/jobs").json()[0]["state"] == "done"
    with client_of(workspace, labellers={"contrastive": lambda coder, tell: 1 / 0}) as client:
        client.post("/api/coders/random/label-job", json={})
        client.app.state.served.jobs._own[0].thread.join(10)  # type: ignore[attr-defined]
        (job,) = client.get("/api/jobs").json()
        assert (job["state"], job["message"]) == ("failed", "ZeroDivisionError: division by zero")
