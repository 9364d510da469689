"""Files that appear under their name only when whole: written beside it first, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from saescope.errors import SaescopeError


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file, replacing what is there, and return its path. SaescopeError, in one line, where it cannot be written;
    what was there before is then still there."""
    temporary = path.with_name(f".{path.name}.writing")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SaescopeError(f"cannot write {path}: {error.strerror or error}; nothing was left there") from None
    return path


def write_json(path: Path, content: Any) -> Path:
    """Write JSON by `write_whole`. NaN and infinity, which JSON has not, are a ValueError."""
    return write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def reserve(file: IO[bytes], size: int) -> None:
    """Give an open file `size` bytes more than it has, on the disk and not in name only. OSError where there is no room: a
    mapped file that finds none later ends the process instead."""
    file.flush()
    start = file.tell()
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), start, size)
    else:
        file.truncate(start + size)
