"""The automatic labels of an index as they are on disk now."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from saescope.features.index import FeatureIndex
from saescope.features.labels import Label, read_labels
from saescope.features.labels.table import LABELS


@dataclass(frozen=True)
class AutomaticLabels:
    """Each feature's newest label. `version` changes whenever a file does."""

    version: str = ""
    by_feature: dict[int, Label] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """How most of them came about; empty where there are none."""
        kinds = Counter(label.kind for label in self.by_feature.values())
        return kinds.most_common(1)[0][0] if kinds else ""


def labels_version(index: FeatureIndex) -> str:
    """Which label files an index has now: cheap enough to ask at every page."""
    folder = index.path / LABELS
    try:
        files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _files(folder))
    except OSError:
        return ""
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16] if files else ""


def automatic_labels(index: FeatureIndex, version: str) -> AutomaticLabels:
    """FeatureIndexError, naming the file, where one of them is damaged."""
    table = read_labels(index)
    known = {} if table is None else table.by_feature
    return AutomaticLabels(version, {number: label for number, label in known.items() if 0 <= number < index.d_sae})


def made_at(label: Label) -> str:
    """When a label's run was, as ISO 8601; empty where its version does not say."""
    try:
        return (
            datetime.strptime(label.version[:21], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC).isoformat(timespec="seconds")
        )
    except ValueError:
        return ""


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.parquet") if not path.name.startswith(".")] if folder.is_dir() else []
