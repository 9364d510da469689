"""Coders in files of other tools: read from a folder, a file or the hub, and written for them.

A format is one file of this package and one row of `table.py`.
"""

from saescope.coders.formats.loading import load
from saescope.coders.formats.table import FORMATS, Format, format_named
from saescope.coders.formats.writing import export

__all__ = ["FORMATS", "Format", "export", "format_named", "load"]
