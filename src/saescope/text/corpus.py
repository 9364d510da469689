"""A corpus: documents in a fixed order, each text once, with an identity that says when two are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saescope import assets
from saescope.errors import TextError, UsageError, nearest
from saescope.paths import typed_path
from saescope.text.documents import SUFFIXES, Document, Fields, from_record, is_readable, read_file


@dataclass(frozen=True)
class Corpus:
    """Documents of a demo text, a file, a folder or a dataset, from `Corpus.open`; iterate as often as wanted."""

    spec: str
    read: Callable[[], Iterator[Document]] = field(repr=False)
    describe: Callable[[], dict[str, Any]] = field(repr=False)

    @classmethod
    def open(
        cls, spec: str | os.PathLike[str], *, text_field: str = "text", messages_field: str = "messages"
    ) -> Corpus:
        """A corpus from a short description of where it is.

        `spec` is a demo name (`demo`, `wikipedia-sample`, `lee-news`), a `.txt`, `.md`, `.jsonl` or `.parquet` file, a
        folder of them (read recursively, by path), or `hf:NAME[:CONFIG[:SPLIT]]`. TextError when there is nothing to
        read; what is wrong inside a file is found while iterating and named with its place.
        """
        fields, spec = Fields(text_field, messages_field), os.fspath(spec)
        if spec in assets.CORPORA or spec in assets.BUNDLES:
            return _open_demo(spec)
        if spec in assets.MODELS:
            raise UsageError(f"{spec} is a model, not a corpus; demo corpora: {', '.join(_demo_names())}")
        if spec.startswith("hf:"):
            return _open_dataset(spec, fields)
        return _open_path(spec, fields)

    def __iter__(self) -> Iterator[Document]:
        """Documents in order, without empty ones and without repetitions of a text. TextError when none is left."""
        seen: set[str] = set()
        for document in self.read():
            if document.text.strip() and document.id not in seen:
                seen.add(document.id)
                yield document
        if not seen:
            raise TextError(f"the corpus {self.spec} is empty: no document in it has any text")

    def identity(self) -> dict[str, Any]:
        """Plain JSON data, equal for two corpora exactly when they give the same documents in the same order.

        Files count by content, not by where they lie.
        """
        return self.describe()


def _demo_names() -> list[str]:
    return [*assets.CORPORA, *assets.BUNDLES]


def _open_demo(spec: str) -> Corpus:
    parts = [(asset.name, assets.fetch(asset.name)) for asset in assets.lookup(spec)]

    def read() -> Iterator[Document]:
        for name, path in parts:
            yield from read_file(path, name, Fields())

    return Corpus(spec, read, lambda: _files_identity([(name, path) for name, path in parts], Fields()))


def _open_path(spec: str, fields: Fields) -> Corpus:
    path = typed_path(spec)
    if path.is_file():
        if not is_readable(path):
            raise TextError(f"{spec} is no text saescope reads; it reads {', '.join(SUFFIXES)}")
        files = [(path.name, path)]
    elif path.is_dir():
        found = sorted((entry.relative_to(path).as_posix(), entry) for entry in path.rglob("*") if entry.is_file())
        files = [(name, entry) for name, entry in found if is_readable(entry) and not _is_hidden(name)]
        if not files:
            raise TextError(f"the corpus {spec} is empty: no file in that folder ends in {', '.join(SUFFIXES)}")
    else:
        raise TextError(
            f"no corpus at {spec}{nearest(spec, _demo_names())}; give a file, a folder, hf:NAME, "
            f"or one of {', '.join(_demo_names())}"
        )

    def read() -> Iterator[Document]:
        for name, entry in files:
            yield from read_file(entry, name, fields)

    return Corpus(spec, read, lambda: _files_identity(files, fields))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _files_identity(files: list[tuple[str, Path]], fields: Fields) -> dict[str, Any]:
    contents = []
    for name, path in files:
        try:
            with path.open("rb") as file:
                contents.append({"name": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()})
        except OSError as error:
            raise TextError(f"cannot read {path}: {error.strerror or error}") from error
    return {"kind": "files", "files": contents, "text_field": fields.text, "messages_field": fields.messages}


def _open_dataset(spec: str, fields: Fields) -> Corpus:
    """`hf:NAME[:CONFIG[:SPLIT]]`, streamed at the revision found now, so that its identity names what is read."""
    _, name, *rest = spec.split(":")
    config, split = [*rest, "", ""][:2]
    if not name or len(rest) > 2:
        raise UsageError(f"{spec} should be hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT")
    try:
        import datasets
    except ImportError:
        raise TextError(f"{spec} needs the datasets package: pip install 'saescope[datasets]'") from None
    revision = _revision(name)
    split = split or "train"

    def read() -> Iterator[Document]:
        try:
            rows = datasets.load_dataset(name, config or None, split=split, streaming=True, revision=revision)
            for number, row in enumerate(rows):
                yield from_record(row, fields, f"{name}:{number}")
        except TextError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise TextError(f"{spec} could not be read ({reason})") from error

    identity = {
        "kind": "dataset",
        "name": name,
        "config": config,
        "split": split,
        "revision": revision,
        "text_field": fields.text,
        "messages_field": fields.messages,
    }
    return Corpus(spec, read, lambda: identity)


def _revision(name: str) -> str | None:
    """The dataset's commit on the hub, or None for a local folder or without a connection."""
    if Path(name).exists():
        return None
    try:
        from huggingface_hub import HfApi

        return HfApi().dataset_info(name, timeout=10).sha
    except Exception:
        return None
