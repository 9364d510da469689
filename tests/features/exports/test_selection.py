"""A folder is there whole or not at all, and nothing of others is touched."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from saescope.errors import OccupiedError
from saescope.features.exports.selection import whole_folder


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), whole_folder(tmp_path / "out" / "model" / "source") as into:
        (into / "release.jsonl").write_text("begun")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_anothers_folder(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), whole_folder(tmp_path / "out" / "model" / "one"):
        with whole_folder(tmp_path / "out" / "model" / "two") as into:
            (into / "release.jsonl").write_text("whole")
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "out" / "model").iterdir()] == ["two"]
    assert (tmp_path / "out" / "model" / "two" / "release.jsonl").read_text() == "whole"


def test_the_working_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with whole_folder(Path()) as into:
        (into / "features.parquet").write_text("whole")
    assert (tmp_path / "here" / "features.parquet").read_text() == "whole"
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OccupiedError, match="holds something"), whole_folder(Path()):
        pass
