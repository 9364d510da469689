"""How far long work on an index is, in a file beside it, so that a page can show what a terminal does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from saescope.errors import SaescopeError
from saescope.progress import Progress, silent
from saescope.whole_files import write_json

PROGRESS = "progress.json"
# Seconds between two writings.
_PAUSE = 1.0


@contextmanager
def kept_progress(
    folder: Path, kind: Literal["index", "label"], progress: Progress | None = None
) -> Iterator[Progress]:
    """A `progress(stage, done, total)` that also keeps `progress.json` {kind, stage, done, total, pid} in the index's folder,
    until the block ends. Where the file cannot be written the work goes on without it."""
    tell = progress or silent
    path = folder / PROGRESS
    written = -_PAUSE

    def told(stage: str, done: int, total: int) -> None:
        nonlocal written
        tell(stage, done, total)
        now = time.monotonic()
        if now - written >= _PAUSE:
            written = now
            with suppress(SaescopeError):
                write_json(path, {"kind": kind, "stage": stage, "done": done, "total": total, "pid": os.getpid()})

    try:
        yield told
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
