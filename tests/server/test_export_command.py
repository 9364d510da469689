"""What people wrote in the explorer reaches `saescope export-features`, wherever the explorer was opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from saescope import cli
from saescope.cli import export_features
from saescope.features import FeatureIndex
from saescope.server.people import FILE


def run(*words: object) -> None:
    if not cli.app.registered_commands:
        cli._register()
    cli.app([str(word) for word in words], standalone_mode=False)


def test_a_file_in_which_nobody_wrote_is_passed_over(
    workspace: Path, index: FeatureIndex, client_of: Callable[..., TestClient]
) -> None:
    with client_of(workspace) as client:
        client.put("/api/coders/random/features/3/label", json={"text": "said by a person", "revision": 0})
        client.put("/api/coders/random/features/4/lists", json={"lists": ["mine"]})
    with client_of(index.path) as client:
        client.get("/api/coders/random/features/0")
    assert (index.path / FILE).exists()
    labels, additions = export_features._labels(index, None)
    assert labels[3].text == "said by a person"
    assert additions is not None
    assert additions.lists == {"mine": [4]}
    # What was written nearer wins.
    with client_of(index.path) as client:
        client.put("/api/coders/random/features/3/label", json={"text": "said nearer", "revision": 0})
    labels, additions = export_features._labels(index, None)
    assert (labels[3].text, additions and additions.lists) == ("said nearer", {})


def test_an_index_says_to_serve_the_folder_that_outlives_it(
    workspace: Path, index: FeatureIndex, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAESCOPE_QUIET", "1")
    monkeypatch.setattr("saescope.cli.index._source", lambda *arguments: (None, None))
    monkeypatch.setattr("saescope.features.build_index", lambda *arguments, **more: index)
    run("index", workspace / "coder", "--no-labels")
    assert capsys.readouterr().out.rstrip().endswith(f"saescope serve {workspace / 'coder'}")
