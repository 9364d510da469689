"""Documents out of files and datasets, one reader a format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from saescope.errors import TextError, nearest

Message = Mapping[str, str]
"""One turn of a conversation: `{"role": …, "content": …}`."""


@dataclass(frozen=True)
class Document:
    """A text and where it came from.

    `messages` holds the turns of a conversation; `text` is then the turns as plain lines, which is what is used
    unless a chat template is asked for.
    """

    text: str
    title: str
    source: str
    messages: tuple[Message, ...] | None = None

    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the sha256 of the text: equal texts are one document, wherever they lie."""
        return document_id(self.text)


def document_id(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True)
class Fields:
    """Which fields or columns hold the text and the conversation."""

    text: str = "text"
    messages: str = "messages"


def read_file(path: Path, name: str, fields: Fields) -> Iterator[Document]:
    """The documents of one file, in its order; `name` is how documents and errors call it."""
    try:
        yield from _READERS[path.suffix.lower()](path, _storable(name), fields)
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror or error}") from error


def is_readable(path: Path) -> bool:
    return path.suffix.lower() in _READERS


def from_record(record: Mapping[str, Any], fields: Fields, source: str) -> Document:
    """One row of a dataset: its text, or its conversation, or both. TextError names `source` when it has neither."""
    text = record.get(fields.text)
    turns = record.get(fields.messages)
    if text is None and turns is None:
        if fields.text in record or fields.messages in record:
            return Document("", source, source)
        raise TextError(_missing_field(fields, list(record), source))
    messages = None if turns is None else tuple(_message(turn, source) for turn in _turns(turns, fields, source))
    if text is None:
        text = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages or ())
    if not isinstance(text, str):
        raise TextError(f"{source}: {fields.text} is a {type(text).__name__}, not a text")
    if not _is_unicode(text) or any(not _is_unicode(message["content"]) for message in messages or ()):
        raise TextError(f"{source}: the text holds a lone surrogate (half a \\ud83d\\ude00 pair); repair or drop it")
    title = record.get("title")
    return Document(text, _storable(title) if isinstance(title, str) and title else source, source, messages)


def _read_text(path: Path, name: str, fields: Fields) -> Iterator[Document]:
    yield Document(_decoded(path.read_bytes(), name), name, name)


def _read_json_lines(path: Path, name: str, fields: Fields) -> Iterator[Document]:
    offset = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            source = f"{name}:{number}"
            line = _decoded(raw, name, offset)
            offset += len(raw)
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise TextError(
                    f"{source} is not JSON ({error.msg} at column {error.colno}); fix or delete it"
                ) from error
            except (ValueError, RecursionError) as error:
                raise TextError(f"{source} cannot be read as JSON ({error}); fix or delete it") from error
            if not isinstance(record, dict):
                raise TextError(f"{source} is a JSON {type(record).__name__}, not an object with {fields.text!r}")
            yield from_record(record, fields, source)


def _read_parquet(path: Path, name: str, fields: Fields) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            columns = table.schema_arrow.names
            wanted = [column for column in (fields.text, fields.messages, "title") if column in columns]
            if fields.text not in columns and fields.messages not in columns:
                raise TextError(_missing_field(fields, columns, name))
            row = 0
            for batch in table.iter_batches(batch_size=1024, columns=wanted):
                for record in batch.to_pylist():
                    row += 1
                    yield from_record(record, fields, f"{name}:{row}")
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise TextError(f"{name} is not a readable parquet file ({reason})") from error


_READERS = {".txt": _read_text, ".md": _read_text, ".jsonl": _read_json_lines, ".parquet": _read_parquet}
SUFFIXES = tuple(_READERS)


def _decoded(raw: bytes, name: str, offset: int = 0) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{name} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {offset + error.start}; "
            "convert it (iconv -f … -t utf-8) or drop it"
        ) from error
    return text.removeprefix("\ufeff") if offset == 0 else text


def _storable(name: str) -> str:
    """A title or a file's name as UTF-8 can hold it: bytes that are none are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _missing_field(fields: Fields, present: list[str], source: str) -> str:
    hint = nearest(fields.text, present)
    return (
        f"{source} has neither {fields.text!r} nor {fields.messages!r}, only {', '.join(present) or 'nothing'}{hint}; "
        "name the field that holds the text"
    )


def _turns(turns: Any, fields: Fields, source: str) -> list[Any]:
    if not isinstance(turns, list):
        raise TextError(f"{source}: {fields.messages} is a {type(turns).__name__}, not a list of role and content")
    return turns


def _message(turn: Any, source: str) -> Message:
    """A turn with its content as one text: the parts of a multi-part content that are text, joined."""
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
    if isinstance(content, list):
        content = "".join(str(part["text"]) for part in content if isinstance(part, Mapping) and part.get("text"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise TextError(f"{source}: a message without a role and a content; each needs both")
    return {"role": role, "content": content}
