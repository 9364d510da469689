"""Labels of features, and the files that keep them: INDEX/labels/VERSION.parquet, one a labelling run, never changed."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from saescope.errors import FeatureIndexError
from saescope.whole_files import write_whole

LABELS = "labels"
SCHEMA = 1
CONTRASTIVE, MODEL = "contrastive", "llm"
_METADATA = b"saescope labels"


class Folder(Protocol):
    """What has labels beside it: an index."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class Label:
    """What a feature is said to be about.

    score: balanced accuracy on held-out windows (None: too few of them), with its 95 % interval; controls: what else scored how
    on the same windows. parts: how the text came about, as JSON. kind: "contrastive" or "llm"; version: of the run.
    """

    feature: int
    text: str
    score: float | None = None
    interval: tuple[float, float] | None = None
    controls: dict[str, float] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    kind: str = CONTRASTIVE
    version: str = ""


@dataclass(frozen=True)
class LabelTable:
    """The labels of one run, or, as `read_labels` gives them, each feature's newest."""

    labels: tuple[Label, ...]
    kind: str
    version: str
    options: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def by_feature(self) -> dict[int, Label]:
        return {label.feature: label for label in self.labels}


def label_of(table: LabelTable | None, feature: int) -> Label | None:
    """The feature's label, if it has one."""
    return None if table is None else table.by_feature.get(feature)


def new_version(kind: str, now: datetime | None = None) -> str:
    """A name that sorts by the time of the run."""
    return f"{(now or datetime.now(UTC)).strftime('%Y%m%dT%H%M%S%f')}-{kind}"


_COLUMNS = pa.schema(
    [
        ("feature", pa.int32()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("score", pa.float64()),
        ("score_low", pa.float64()),
        ("score_high", pa.float64()),
        ("controls", pa.string()),
        ("parts", pa.string()),
    ]
)


def write_labels(index: Folder, table: LabelTable) -> Path:
    """Keep a run's labels beside the index, under the table's version; the file is there whole or not at all."""
    folder = Path(index.path) / LABELS
    folder.mkdir(exist_ok=True)
    meta = {"schema": SCHEMA, "kind": table.kind, "version": table.version, "options": table.options}
    rows = [_row(label) for label in table.labels]
    columns = _COLUMNS.with_metadata({_METADATA: json.dumps(meta).encode()})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=columns), buffer, compression="zstd")
    return write_whole(folder / f"{table.version}.parquet", buffer.getvalue())


def _row(label: Label) -> dict[str, Any]:
    low, high = label.interval or (None, None)
    return {
        "feature": label.feature,
        "text": label.text,
        "source": label.kind,
        "score": label.score,
        "score_low": low,
        "score_high": high,
        "controls": json.dumps(label.controls),
        "parts": json.dumps(label.parts),
    }


def versions(index: Folder) -> list[str]:
    """The labelling runs of an index, oldest first."""
    return sorted(path.stem for path in (Path(index.path) / LABELS).glob("*.parquet"))


def read_version(index: Folder, version: str) -> LabelTable:
    """The labels of one run. FeatureIndexError, naming the file, where it is missing or damaged."""
    path = Path(index.path) / LABELS / f"{version}.parquet"
    try:
        table = pq.read_table(path)
        meta = json.loads(table.schema.metadata[_METADATA])
        if meta["schema"] != SCHEMA:
            raise FeatureIndexError(f"{path} is of schema {meta['schema']}, this saescope reads {SCHEMA}; update it")
        labels = tuple(_label(row, meta) for row in table.to_pylist())
        return LabelTable(labels, str(meta["kind"]), str(meta["version"]), dict(meta["options"]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise FeatureIndexError(f"cannot read {path} ({reason}); remove it and label again") from None


def _label(row: dict[str, Any], meta: dict[str, Any]) -> Label:
    interval = None if row["score_low"] is None else (float(row["score_low"]), float(row["score_high"]))
    return Label(
        int(row["feature"]),
        str(row["text"]),
        row["score"],
        interval,
        json.loads(row["controls"]),
        json.loads(row["parts"]),
        str(row.get("source") or meta["kind"]),
        str(meta["version"]),
    )


def read_labels(index: Folder, *, kinds: Sequence[str] = (MODEL, CONTRASTIVE)) -> LabelTable | None:
    """Each feature's newest label of these kinds, from all runs; None where there is no run.

    A run over a few features does not hide the labels that others have from an earlier one. Kind, version and options of the
    table are the newest run's; every label says its own.
    """
    newest: dict[int, Label] = {}
    found = None
    for version in versions(index):
        table = read_version(index, version)
        if table.kind in kinds:
            found = table
            newest |= table.by_feature
    if found is None:
        return None
    return LabelTable(tuple(newest[feature] for feature in sorted(newest)), found.kind, found.version, found.options)


def finite(value: float) -> float | None:
    """A number, None for NaN."""
    return None if math.isnan(value) else float(value)
