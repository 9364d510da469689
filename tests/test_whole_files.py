"""A file that has its name is whole, whoever else writes it, and where it cannot be written nothing is left."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from saescope.errors import SaescopeError
from saescope.whole_files import is_unfinished, write_whole


def test_of_two_writers_one_is_the_last(tmp_path: Path) -> None:
    path = tmp_path / "file"
    refused: list[SaescopeError] = []

    def write(letter: str) -> None:
        try:
            for _ in range(60):
                write_whole(path, letter * 200_000)
        except SaescopeError as error:
            refused.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            content = path.read_text()
            seen.add((len(content), len(set(content))))
    assert refused == []
    assert seen <= {(200_000, 1)}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_or_impossible_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole(tmp_path / "file", "before")
    with pytest.raises(SaescopeError, match="Not a directory; nothing was left there"):
        write_whole(path / "below", "after")

    def interrupted(self: Path, content: bytes) -> int:
        self.open("wb").close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_known_by_its_name() -> None:
    assert is_unfinished(".run.json.1f2e3d4c.writing", "config.yaml", "run.json")
    assert is_unfinished(".run.json.writing", "run.json")
    assert not is_unfinished("run.json", "run.json")
    assert not is_unfinished(".other.json.1f2e3d4c.writing", "run.json")
