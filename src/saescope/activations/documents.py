"""`documents.parquet`: one row per document a harvest met, in the order of their index."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from saescope.errors import StoreError

if TYPE_CHECKING:
    from saescope.text import DocumentRecord

DOCUMENTS = "documents.parquet"


@dataclass(frozen=True)
class StoredDocument:
    """A document and how many of its tokens are in the store's sequences (excluded ones too)."""

    id: str
    title: str
    source: str
    split: str
    n_tokens: int
    n_chars: int
    harvested_tokens: int


_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("n_tokens", pa.int64()),
        ("n_chars", pa.int64()),
        ("harvested_tokens", pa.int64()),
    ]
)


def stored(records: Sequence[DocumentRecord], harvested: Sequence[int]) -> list[StoredDocument]:
    return [
        StoredDocument(r.id, r.title, r.source, r.split, r.n_tokens, r.n_chars, int(n))
        for r, n in zip(records, harvested, strict=True)
    ]


def trained_ids(documents: Sequence[StoredDocument]) -> list[str]:
    """Ids of the documents of which a coder trained on these rows has seen any token."""
    return [document.id for document in documents if document.split == "train" and document.harvested_tokens]


def encode_documents(documents: Sequence[StoredDocument]) -> bytes:
    columns = {
        field.name: [getattr(document, field.name) for document in documents] for field in fields(StoredDocument)
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def decode_documents(data: bytes, where: str) -> list[StoredDocument]:
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        return [StoredDocument(**row) for row in rows]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise StoreError(f"{where}/{DOCUMENTS} is damaged: {' '.join(str(error).split())}; harvest again") from error
