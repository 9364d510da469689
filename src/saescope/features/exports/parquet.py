"""Features and their examples as two Parquet tables, for pandas, DuckDB or R.

OUT/features.parquet   the index's rows of the features, with `label`, `label_kind` and `label_score`
OUT/examples.parquet   feature, group, rank, document, title, sequence, position (in its sequence), text, tokens [list of
                       text], values [list], peak (which token of the list), value (at the peak)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saescope.errors import FeatureIndexError
from saescope.features.exports.selection import ExportedLabel, chosen_features, whole_folder
from saescope.features.index import FeatureIndex
from saescope.features.index.tables import FEATURES

EXAMPLES = "examples.parquet"
REACH = 16
# Examples of so many features are in memory at once.
_BATCH = 256
_EXAMPLE = pa.schema(
    [
        ("feature", pa.int32()),
        ("group", pa.string()),
        ("rank", pa.int32()),
        ("document", pa.int32()),
        ("title", pa.string()),
        ("sequence", pa.int64()),
        ("position", pa.int32()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.string())),
        ("values", pa.list_(pa.float32())),
        ("peak", pa.int32()),
        ("value", pa.float32()),
    ]
)


def write_parquet(
    index: FeatureIndex,
    out: str | Path,
    features: Sequence[int] | None = None,
    *,
    labels: Mapping[int, ExportedLabel] | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write both tables into the folder `out`, there only when whole; all features that fire, or those named, in their order.
    `told(done, total)` counts features. OccupiedError where it holds something."""
    chosen = chosen_features(index, features)
    with whole_folder(Path(out)) as into:
        pq.write_table(_features(index, chosen, labels or {}), into / FEATURES, compression="zstd")
        with pq.ParquetWriter(into / EXAMPLES, _EXAMPLE, compression="zstd") as writer:
            for start in range(0, len(chosen), _BATCH):
                batch = chosen[start : start + _BATCH]
                rows = [row for feature in batch for row in _examples(index, feature)]
                writer.write_table(pa.Table.from_pylist(rows, schema=_EXAMPLE))
                told(start + len(batch), len(chosen))
    return Path(out)


def _features(index: FeatureIndex, chosen: list[int], labels: Mapping[int, ExportedLabel]) -> pa.Table:
    path = index.path / FEATURES
    try:
        table = pq.read_table(path).take(pa.array(chosen))
    except (pa.ArrowException, OSError) as error:
        raise FeatureIndexError(
            f"cannot read {path}: {str(error).splitlines()[0]}; remove the index and build it again"
        ) from None
    own = [labels.get(feature) for feature in chosen]
    return (
        table.append_column("label", pa.array([label and _text(label.text) for label in own], pa.string()))
        .append_column("label_kind", pa.array([label and label.kind for label in own], pa.string()))
        .append_column("label_score", pa.array([label.score if label else None for label in own], pa.float64()))
    )


def _examples(index: FeatureIndex, feature: int) -> Iterator[dict[str, Any]]:
    for group in index.examples(feature):
        for rank, place in enumerate(group.positions):
            context = index.context(feature, place, REACH, REACH)
            pieces = [_text(piece) for piece in index.pieces(context.tokens)]
            yield {
                "feature": feature,
                "group": group.name,
                "rank": rank,
                "document": context.document,
                "title": _text(index.documents[context.document].title) if context.document >= 0 else "",
                "sequence": context.sequence,
                "position": context.position,
                "text": "".join(pieces),
                "tokens": pieces,
                "values": context.activations,
                "peak": context.peak,
                "value": context.value,
            }


def _text(text: str) -> str:
    """What UTF-8 has: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
