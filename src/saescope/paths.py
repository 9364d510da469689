"""Paths as people type them."""

from __future__ import annotations

from pathlib import Path

from saescope.errors import UsageError


def typed_path(text: str | Path) -> Path:
    """The path, with `~` for a home directory. UsageError where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{text}: there is no such home directory; write the path out") from None
