"""What features are about, in words, and how well the words predict where they fire."""

from saescope.features.labels.contrastive import contrastive_labels
from saescope.features.labels.table import (
    Label,
    LabelTable,
    label_of,
    read_labels,
    read_version,
    versions,
    write_labels,
)

__all__ = [
    "Label",
    "LabelTable",
    "contrastive_labels",
    "label_of",
    "read_labels",
    "read_version",
    "versions",
    "write_labels",
]
