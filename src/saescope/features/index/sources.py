"""The sources of text that firings are counted by: files or data sets, or groups of files where there are very many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from saescope.activations.documents import StoredDocument

MOST_SOURCES = 64
"""Counts are kept for every feature and source: of a corpus of a file a document they would outweigh the index."""


def sources_of(documents: Sequence[StoredDocument]) -> tuple[list[str], NDArray[np.int32]]:
    """The sources' names, in the order in which they come, and the number of every document's.

    More than 64 files count by folder, and all as one where that gives more than 64 folders or a single one.
    """
    # Without a document's place in its file.
    files = [document.source.rsplit(":", 1)[0] for document in documents]
    names = list(dict.fromkeys(files)) or [""]
    if len(names) > MOST_SOURCES:
        n_files = len(names)
        files = [f"{PurePosixPath(file).parent}/" for file in files]
        names = list(dict.fromkeys(files))
        if not 1 < len(names) <= MOST_SOURCES:
            names = [f"{n_files:,} files"]
            files = names * len(files)
    number = {name: place for place, name in enumerate(names)}
    return names, np.array([number[file] for file in files], np.int32)
