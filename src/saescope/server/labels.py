"""The automatic labels of an index: files under `labels/`, the newest of each feature winning."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from saescope.errors import FeatureIndexError

FOLDER = "labels"
_SOURCES = ("contrastive", "llm")


@dataclass(frozen=True)
class AutomaticLabel:
    """score is None where the label was not tried."""

    text: str
    source: str
    score: float | None
    created: str


@dataclass(frozen=True)
class AutomaticLabels:
    """By feature. `version` changes whenever a file does."""

    version: str = ""
    by_feature: dict[int, AutomaticLabel] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The source of most of them."""
        sources = [label.source for label in self.by_feature.values()]
        return max(_SOURCES, key=sources.count) if sources else ""


def labels_version(index: Path) -> str:
    """Which label files an index has now: cheap enough to ask at every page."""
    try:
        found = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _files(index))
    except OSError:
        return ""
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16] if found else ""


def read_labels(index: Path, d_sae: int) -> AutomaticLabels:
    """All label files of an index. FeatureIndexError, naming the file, where one is damaged or of another coder."""
    version = labels_version(index)
    found: dict[int, AutomaticLabel] = {}
    for path in sorted(_files(index), key=lambda path: (path.stat().st_mtime_ns, path.name)):
        created = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
        found |= _read(path, d_sae, created)
    return AutomaticLabels(version, found)


def _files(index: Path) -> list[Path]:
    folder = index / FOLDER
    return [path for path in folder.glob("*.parquet") if not path.name.startswith(".")] if folder.is_dir() else []


def _read(path: Path, d_sae: int, created: str) -> dict[int, AutomaticLabel]:
    try:
        names = set(pq.read_schema(path).names)
        table = pq.read_table(path, columns=["feature", "text", *(names & {"source", "score"})])
        features = table["feature"].to_pylist()
        texts = table["text"].to_pylist()
        rows = table.num_rows
        sources = table["source"].to_pylist() if "source" in names else ["contrastive"] * rows
        scores = table["score"].to_pylist() if "score" in names else [None] * rows
        if rows and not 0 <= int(np.min(features)) <= int(np.max(features)) < d_sae:
            raise ValueError(f"its features are not those of a coder of {d_sae}")
    except (OSError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FeatureIndexError(f"damaged {path}: {reason}; remove it, or label again") from None
    return {
        feature: AutomaticLabel(
            text,
            source if source in _SOURCES else "contrastive",
            None if score is None or not np.isfinite(score) else float(score),
            created,
        )
        for feature, text, source, score in zip(features, texts, sources, scores, strict=True)
        if text
    }
