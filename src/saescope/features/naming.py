"""Making an index findable by words: labels where it has none, and the search by meaning ready to answer at once."""

from __future__ import annotations

from saescope.features.index import FeatureIndex
from saescope.features.index.progress import kept_progress
from saescope.features.labels import LabelTable, contrastive_labels, read_labels, write_labels
from saescope.features.search import MeaningSearch
from saescope.progress import Progress


def name_features(index: FeatureIndex, progress: Progress | None = None) -> LabelTable:
    """The labels of an index; those that need no model are made first where it has none. `progress(stage, done, total)`."""
    with kept_progress(index.path, "label", progress) as tell:
        table = read_labels(index)
        if table is None:
            table = contrastive_labels(index, progress=tell)
            write_labels(index, table)
        tell("search by meaning", 0, 1)
        MeaningSearch.of(index, read_labels(index))
        tell("search by meaning", 1, 1)
    return table
