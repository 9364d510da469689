"""Arrays on disk: whole or not there, whatever the disk says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from saescope.errors import FeatureIndexError
from saescope.features.index.arrays import array_path, new_array, read_array, write_array


@pytest.mark.parametrize("values", [np.arange(12, dtype=np.float16).reshape(3, 4), np.zeros((0, 5), np.uint32)])
def test_what_was_written_is_read(tmp_path: Path, values: np.ndarray) -> None:
    write_array(tmp_path, "some", values)
    found = read_array(tmp_path, "some")
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert [path.name for path in array_path(tmp_path, "some").parent.iterdir()] == ["some.npy"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves nothing")
def test_room_is_taken_before_anything_is_mapped(tmp_path: Path) -> None:
    size = 2**20
    with new_array(tmp_path, "some", (size,), np.uint8):
        temporary = next((tmp_path / "arrays").iterdir())
        # Blocks of 512 bytes that the file has on the disk: none where it is only as long as it says.
        assert temporary.stat().st_blocks * 512 >= size


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(FeatureIndexError, match=r"some.npy: No space left on device; nothing was left"):
        write_array(tmp_path, "some", np.ones(5))
    assert not list((tmp_path / "arrays").iterdir())
