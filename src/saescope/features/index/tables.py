"""`features.parquet`: one row a feature, for filters, sorts and people's own tools."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saescope.features.index.reader import FeatureIndex
from saescope.whole_files import write_whole

FEATURES = "features.parquet"


def write_features(index: FeatureIndex) -> Path:
    """Write the table of an index's features. Columns whose arrays it does not have are null."""
    d_sae = index.d_sae

    def have(name: str) -> np.ndarray | None:
        return np.asarray(index.arrays[name]) if index.has(name) else None

    columns: dict[str, object] = {
        "feature": np.arange(d_sae, dtype=np.int32),
        "count": index.count,
        "density": index.density,
        "mean": index.mean.astype(np.float32),
        "maximum": index.maximum,
        "documents": have("document_count"),
        "top_token": _texts(index, [index.top_tokens(feature, 1)[:1] for feature in range(d_sae)]),
        "top_outputs": None,
        "decoder_norm": have("decoder_norm"),
        "level": have("level"),
        "family": have("family"),
        "form": None,
        "x": None,
        "y": None,
    }
    if (outputs := have("lens_top")) is not None:
        columns["top_outputs"] = _texts(index, outputs[:, :5].tolist())
    if (form := have("form")) is not None:
        columns["form"] = [index.manifest.names["forms"][kind] for kind in form.tolist()]
    if (place := have("map")) is not None:
        columns["x"], columns["y"] = place[:, 0], place[:, 1]
    schema = {name: kind for name, kind in _TYPES.items() if name in columns}
    table = pa.table(
        {
            name: pa.nulls(d_sae, kind) if columns[name] is None else pa.array(columns[name], kind)
            for name, kind in schema.items()
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return write_whole(index.path / FEATURES, buffer.getvalue())


_TYPES = {
    "feature": pa.int32(),
    "count": pa.int64(),
    "density": pa.float64(),
    "mean": pa.float32(),
    "maximum": pa.float32(),
    "documents": pa.int32(),
    "top_token": pa.string(),
    "top_outputs": pa.string(),
    "decoder_norm": pa.float32(),
    "level": pa.int16(),
    "family": pa.int32(),
    "form": pa.string(),
    "x": pa.float32(),
    "y": pa.float32(),
}


def _texts(index: FeatureIndex, tokens: list[list[int]]) -> list[str]:
    """The tokens of each feature as text, each by itself, set apart by a line's end that no single token's text keeps."""
    return ["\n".join(index.pieces([token])[0].replace("\n", "↵") for token in own) for own in tokens]
