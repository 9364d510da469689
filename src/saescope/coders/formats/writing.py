"""`export`: a coder into another tool's files. A folder is written under a temporary name and renamed when whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.table import format_named
from saescope.errors import CoderError, OccupiedError


def export(coder: SparseCoder, folder: str | Path, format: str) -> Path:
    """Write a coder as `format`, a name of `FORMATS` that writes. `folder` must not exist or be empty. Returns it.

    CoderError, in one line, where the format has no place for such a coder.
    """
    row = format_named(format, writes=True)
    folder = Path(folder)
    with written_whole(folder, replaces=lambda _: False) as temporary:
        row.load().write(coder, temporary)
    return folder


@contextmanager
def written_whole(folder: Path, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and goes when it does not.

    OccupiedError where `folder` holds something that is not `replaces`-able.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not replaces(folder))):
        raise OccupiedError(f"{folder} exists and is not a coder; choose another folder to save to")
    temporary = folder.with_name(f".{folder.name}.writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise CoderError(f"cannot save the coder to {folder}: {error}; nothing was left there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
