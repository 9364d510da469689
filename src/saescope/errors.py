"""The one exception family.

Every message is one line that says what is wrong, where, and what to do; the command line prints it as it stands.
`UsageError` is for what the person typed (exit code 2), everything else is a failure (exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SaescopeError(Exception):
    """Anything saescope refuses or fails at, in one line a person can act on."""

    exit_code = 1


class UsageError(SaescopeError):
    """An option, name or combination that cannot work, whatever the data."""

    exit_code = 2


class AssetError(SaescopeError):
    """A demo model or text could not be fetched, verified or converted."""


class ModelError(SaescopeError):
    """A language model could not be loaded or run as asked."""


class EditNeverFired(ModelError):  # noqa: N818 - reads as the event it is
    """An edit was given, the run ended, and the edit had touched nothing."""


class TextError(SaescopeError):
    """A corpus is missing, empty, unreadable or too short."""


class StoreError(SaescopeError):
    """An activation store is missing, incomplete, damaged or of another run."""


class CoderError(SaescopeError):
    """A sparse coder's files or shapes are wrong for what was asked."""


class FeatureIndexError(SaescopeError):
    """A feature index is missing, incomplete, damaged or of another coder."""


class ForeignCoderWarning(UserWarning):
    """Something that a coder's files, written by another tool, leave unsaid, and what was assumed."""


class TrainingError(SaescopeError):
    """A training run cannot start, go on or be resumed."""


class OccupiedError(SaescopeError):
    """The output folder holds something else that would be lost."""


class WorkspaceError(SaescopeError):
    """A folder cannot be served: it has no index, or what people wrote in it cannot be read."""


class RevisionConflict(WorkspaceError):  # noqa: N818 - reads as the event it is
    """Someone else changed a text first; what was sent is kept in its history."""


def first_mistake(error: ValidationError, *, given: bool = False) -> str:
    """`PLACE: what is wrong` of the first entry that pydantic refuses; with `given`, what stood there too."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg'].lower()}" + (f", got {first.get('input')!r}" if given else "")


def nearest(name: str, candidates: Iterable[str], n: int = 3) -> str:
    """A trailing hint naming the closest of `candidates`, e.g. `"; nearest: resid_post.14, resid_pre.14"`.

    Empty when nothing is close, so that it can always be appended.
    """
    close = difflib.get_close_matches(name, list(dict.fromkeys(candidates)), n=n, cutoff=0.5)
    return f"; nearest: {', '.join(close)}" if close else ""
