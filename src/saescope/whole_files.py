"""Files that appear under their name only when whole: written beside it first, then renamed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from saescope.errors import OccupiedError, SaescopeError

_UNFINISHED = ".writing"


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file, replacing what is there, and return its path. SaescopeError, in one line, where it cannot be written;
    what was there before is then still there. Of several writers at once, in any process, one is the last."""
    # A name of its own: a second writer would empty the first one's file, and one of them would be put in place half written.
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}{_UNFINISHED}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise SaescopeError(f"cannot write {path}: {error.strerror or error}; nothing was left there") from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def is_unfinished(name: str, *wanted: str) -> bool:
    """Whether a file's name is that of what a killed process left of writing one of the `wanted`."""
    return name.endswith(_UNFINISHED) and name.startswith(tuple(f".{one}." for one in wanted))


def write_json(path: Path, content: Any) -> Path:
    """Write JSON by `write_whole`. NaN and infinity, which JSON has not, are a ValueError."""
    return write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """An object that `write_json` wrote. OccupiedError with `advice` where the file holds none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise OccupiedError(f"{path} is damaged; {advice}")
    return found


def reserve(file: IO[bytes], size: int) -> None:
    """Give an open file `size` bytes more than it has, on the disk and not in name only. OSError where there is no room: a
    mapped file that finds none later ends the process instead."""
    file.flush()
    start = file.tell()
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, size)
    else:
        file.truncate(start + size)
