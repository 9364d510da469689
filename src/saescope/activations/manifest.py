"""`manifest.json`: what a store holds, of which model and text, and the sha256 of everything in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saescope.activations.exclusions import KeptRule
from saescope.activations.shards import SPLITS
from saescope.errors import StoreError
from saescope.lm.identity import comparable

SCHEMA = 1
MANIFEST = "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Counts(_Record):
    """Of one split: sequences, their tokens (specials included), rows kept, and tokens left out by reason.

    A token beyond the limit at several points is counted at each in `sink` and once in `sink_any`, so
    `tokens == rows + special + sink_any`.
    """

    sequences: int = 0
    tokens: int = 0
    rows: int = 0
    special: int = 0
    sink_any: int = 0
    sink: dict[str, int] = Field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        points = [*self.sink, *(point for point in other.sink if point not in self.sink)]
        return Counts(
            sequences=self.sequences + other.sequences,
            tokens=self.tokens + other.tokens,
            rows=self.rows + other.rows,
            special=self.special + other.special,
            sink_any=self.sink_any + other.sink_any,
            sink={point: self.sink.get(point, 0) + other.sink.get(point, 0) for point in points},
        )


class FileRecord(_Record):
    bytes: int
    sha256: str


class ShardRecord(FileRecord):
    file: str
    rows: int
    train: Counts
    held_out: Counts


class Request(_Record):
    """What was asked for: two harvests are the same when their requests are (`differences` says where not).

    `shard_sequences` sequences make a shard and `batch_sequences` a forward batch; a shard is whole batches, so that an
    interrupted harvest goes on with the very batches it would have run.
    """

    model: dict[str, Any]
    corpus: dict[str, Any]
    sequences: dict[str, Any]
    points: dict[str, int]
    store_dtype: str
    tokens: int
    sink_ratio: float
    batch_sequences: int
    shard_sequences: int

    def differences(self, other: Request) -> list[str]:
        """Names of what differs. Where the model came from is not compared, only what it is."""
        mine, theirs = comparable(self.model_dump(), other.model_dump())
        for request in (mine, theirs):
            request["model"] = without_origin(request["model"])
            request["points"] = list(request["points"].items())
        return [key for key in mine if mine[key] != theirs[key]]

    def fingerprint(self) -> str:
        """Written into every shard, so that one of another store is recognised without its sha256."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[:16]


class Manifest(_Record):
    schema_version: int = Field(default=SCHEMA, alias="schema")
    kind: str = "saescope activation store"
    complete: bool
    request: Request
    environment: dict[str, str]
    kept_rule: dict[str, Any]
    counts: dict[str, Counts] = Field(default_factory=dict)
    corpus_ended: bool = False
    shards: list[ShardRecord] = Field(default_factory=list)
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @classmethod
    def parse(cls, text: bytes, where: str) -> Self:
        try:
            data = json.loads(text)
            if data.get("schema") != SCHEMA:
                raise StoreError(
                    f"{where} has manifest schema {data.get('schema')}, this saescope reads {SCHEMA}; harvest again"
                )
            found = cls.model_validate(data)
            for name in found.files:
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
                    raise ValueError(f"it names {name!r}, which is not in the store")
            return found
        except (ValueError, AttributeError, ValidationError) as error:
            first = str(error).splitlines()
            raise StoreError(f"{where}/{MANIFEST} is unreadable: {'; '.join(first[:2])}; harvest again") from error

    def encode(self) -> bytes:
        return (json.dumps(self.model_dump(by_alias=True), indent=1, allow_nan=False) + "\n").encode()

    def rule(self) -> KeptRule:
        return KeptRule.from_dict(self.kept_rule)

    def totals(self) -> dict[str, Counts]:
        """`counts`, summed from the shards."""
        sums = {split: Counts(sink=dict.fromkeys(self.request.points, 0)) for split in SPLITS}
        for shard in self.shards:
            sums["train"] += shard.train
            sums["held_out"] += shard.held_out
        return sums


def without_origin(identity: Mapping[str, Any]) -> dict[str, Any]:
    """A model's identity less the words it was loaded by."""
    return {key: value for key, value in identity.items() if key not in ("spec", "name")}
