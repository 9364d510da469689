"""The explorer: a workspace of feature indexes, served as a typed JSON API and one page."""

from saescope.server.app import create_app
from saescope.server.people import People
from saescope.server.workspace import Workspace

__all__ = ["People", "Workspace", "create_app"]
