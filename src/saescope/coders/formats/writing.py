"""`export`: a coder into another tool's files. A folder is written under a temporary name and renamed when whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.coders.formats import native
from saescope.coders.formats.table import format_named
from saescope.errors import CoderError, OccupiedError


def export(coder: SparseCoder, folder: str | Path, format: str, *, reference: dict[str, Tensor] | None = None) -> Path:
    """Write a coder as `format`, a name of `FORMATS` that writes. `folder` must not exist or be empty. Returns it.

    `reference`: what `load_reference` gives, which only saescope's own format has a place for. CoderError, in one line, where
    the format has no place for such a coder.
    """
    row = format_named(format, writes=True)
    folder = Path(folder)
    with written_whole(folder, replaces=lambda _: False) as temporary:
        row.load().write(coder, temporary)
        if reference and row.name == "saescope":
            native.write_reference(reference, temporary)
    return folder


@contextmanager
def written_whole(folder: Path, replaces: Callable[[Path], bool]) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and goes when it does not.

    OccupiedError where `folder` holds something that is not `replaces`-able, or cannot be replaced because one is in it.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not replaces(folder))):
        raise OccupiedError(
            f"{folder} holds something already, which is not replaced; choose another folder to save to"
        )
    if folder.resolve() == Path.cwd():
        raise OccupiedError(
            f"{folder} is the folder you are in, which cannot be replaced; name a new one, as {folder / 'coder'}"
        )
    temporary = folder.with_name(f".{folder.name}.writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        with _set_aside(folder):
            temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise CoderError(f"cannot save the coder to {folder}: {error}; nothing was left there") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _set_aside(folder: Path) -> Iterator[None]:
    """What is there goes once the block has put something in its place, and comes back when it has not."""
    if not folder.exists():
        yield
        return
    aside = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    try:
        yield
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)
