"""`manifest.json`: which coder, on which text, and the size and sha256 of every file of the index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saescope.errors import FeatureIndexError, first_mistake
from saescope.lm.identity import weights_differ
from saescope.whole_files import write_json

SCHEMA = 1
MANIFEST = "manifest.json"
KIND = "saescope feature index"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class FileRecord(_Record):
    bytes: int
    sha256: str


class IndexedCoder(_Record):
    """The coder that was indexed. `path`: its folder, from the index's own where both can be moved together; empty where it
    came from memory. `fingerprint`: as `coder_fingerprint` makes it."""

    name: str
    path: str
    fingerprint: str
    architecture: str
    kind: str
    reads: list[str]
    writes: list[str]
    d_in: int
    d_out: int
    d_sae: int
    levels: list[int]


class Counts(_Record):
    """sequences; positions: all their tokens; tokens: those with codes; nonzeros: active latents over these; negative: codes
    below zero, which are left out; live: latents that fire."""

    sequences: int = 0
    positions: int = 0
    tokens: int = 0
    nonzeros: int = 0
    negative: int = 0
    live: int = 0


class IndexManifest(_Record):
    schema_version: int = Field(default=SCHEMA, alias="schema")
    kind: str = KIND
    complete: bool = False
    created: str = ""
    coder: IndexedCoder
    model: dict[str, Any]
    corpus: dict[str, Any]
    source: dict[str, Any]
    options: dict[str, Any]
    environment: dict[str, str] = Field(default_factory=dict)
    counts: Counts = Field(default_factory=Counts)
    names: dict[str, list[str]] = Field(
        default_factory=dict, description="of groups of examples, position bins, sources, forms"
    )
    skipped: dict[str, str] = Field(default_factory=dict, description="what the index does not have, and why")
    seconds: dict[str, float] = Field(default_factory=dict)
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The manifest of that folder, None where there is none. FeatureIndexError where it cannot be understood."""
        path = folder / MANIFEST
        try:
            data = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise FeatureIndexError(
                f"damaged {path}: {' '.join(str(error).split())}; remove the index and build it again"
            ) from None
        if not isinstance(data, dict) or data.get("kind") != KIND:
            return None
        if data.get("schema") != SCHEMA:
            raise FeatureIndexError(
                f"{path} has schema {data.get('schema')}, this saescope reads {SCHEMA}; remove the index and build it again"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise FeatureIndexError(
                f"damaged {path}: {first_mistake(error)}; remove the index and build it again"
            ) from None

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, self.model_dump(by_alias=True))

    def request(self) -> dict[str, Any]:
        """What was asked for: two builds into one folder are the same when these are equal."""
        return {"coder": self.coder.fingerprint, "source": self.source, "options": self.options}

    def check_model(self, model: Mapping[str, Any]) -> None:
        """FeatureIndexError where `model`, a `LanguageModel.identity()`, has other weights than the indexed one's."""
        if weights_differ(self.model.get("weights"), model.get("weights")):
            raise FeatureIndexError(
                f"the index is of {self.model.get('spec') or self.model.get('name')}, the model given is "
                f"{model.get('spec') or model.get('name')}, whose weights are others; give its own model"
            )

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.request(), sort_keys=True).encode()).hexdigest()[:16]


def recorded(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def check_sizes(folder: Path, manifest: IndexManifest) -> None:
    """FeatureIndexError naming the first file that is missing or not as long as it was written."""
    for name, record in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            raise FeatureIndexError(
                f"{name} is missing from the index {folder}; remove the index and build it again"
            ) from None
        if size != record.bytes:
            raise FeatureIndexError(
                f"damaged {name} in the index {folder}: {size:,} bytes, the manifest says {record.bytes:,}; "
                "remove the index and build it again"
            )


def verify(folder: Path, manifest: IndexManifest) -> None:
    """Hash every file; FeatureIndexError names the first that is not as it was written."""
    check_sizes(folder, manifest)
    for name, record in manifest.files.items():
        if recorded(folder / name) != record:
            raise FeatureIndexError(
                f"damaged {name} in the index {folder}: its sha256 is not the manifest's; remove the index and build it again"
            )
