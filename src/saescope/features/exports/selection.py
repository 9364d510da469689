"""Which features are exported, what is said of them, and a folder that appears only when whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from saescope.errors import OccupiedError, SaescopeError, UsageError
from saescope.features.index import FeatureIndex


class ExportedLabel(Protocol):
    """What an export says of a feature: words, who found them, and their held-out balanced accuracy if it was measured."""

    @property
    def text(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def score(self) -> float | None: ...


def chosen_features(index: FeatureIndex, features: Sequence[int] | None) -> list[int]:
    """The features named, in that order, each once; all that fire where none are. UsageError for one that is not there."""
    if features is None:
        return [int(feature) for feature in index.count.nonzero()[0]]
    if not features:
        raise UsageError("no features to export; name some, or leave the list out for all that fire")
    return [index.check_feature(feature) for feature in dict.fromkeys(features)]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside `folder`, that takes its name when the block ends without an error; else nothing is left.
    OccupiedError where something is there, SaescopeError where nothing can be written."""
    # "." has no name to put another beside.
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OccupiedError(f"{folder} holds something; choose another --out, or remove it")
    temporary = folder.with_name(f".{folder.name}.writing")
    made = next((parent for parent in reversed(folder.parents) if not parent.exists()), None)
    done = False
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)
        done = True
    except OSError as error:
        raise SaescopeError(f"cannot write {folder}: {error.strerror or error}; nothing was left there") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made is not None and not done:
            _remove_empty(folder.parent, made)


def _remove_empty(folder: Path, last: Path) -> None:
    """Remove `folder` and what it is in, up to `last`, as far as nothing is there: another export may have come meanwhile."""
    for one in (folder, *folder.parents):
        try:
            one.rmdir()
        except OSError:
            return
        if one == last:
            return
