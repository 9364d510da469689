"""The explorer: a workspace of feature indexes, served as a typed JSON API and one page."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saescope.server.app import create_app as create_app
    from saescope.server.people import People as People
    from saescope.server.workspace import Workspace as Workspace

# Imported when first used: a port that is taken should be refused before torch is there.
_HOME = {"People": "people", "Workspace": "workspace", "create_app": "app"}

__all__ = ["People", "Workspace", "create_app"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'saescope.server' has no attribute {name!r}")
    return getattr(importlib.import_module(f"saescope.server.{_HOME[name]}"), name)
