"""An activation store: a folder of shards with a manifest, opened for reading.

STORE/manifest.json            what it holds, sha256 of every file, `complete`
STORE/shards/00000.safetensors rows and sequences (`shards.Shard`)
STORE/documents.parquet        one row per document
STORE/statistics.safetensors   mean and variance per point over the training rows
STORE/tokenizer/               so that rows can be shown as text without the model
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from saescope.activations.documents import DOCUMENTS, StoredDocument, decode_documents, trained_ids
from saescope.activations.exclusions import KeptRule
from saescope.activations.location import Digest, Location
from saescope.activations.manifest import MANIFEST, Manifest
from saescope.activations.shards import SHARDS, SPLITS, Shard, read_shard, store_dtype
from saescope.activations.statistics import PointStatistics
from saescope.errors import StoreError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from saescope.lm import PointNames

STATISTICS = "statistics.safetensors"
TOKENIZER = "tokenizer"


class Store:
    """A complete store. `Store.open(path)` checks that it is whole; `verify()` that every byte is as written."""

    def __init__(self, location: Location, manifest: Manifest):
        self._location = location
        self._vouched: set[int] = set()
        self.manifest = manifest
        self.path = location.spec
        self.widths: dict[str, int] = dict(manifest.request.points)
        self.points: tuple[str, ...] = tuple(self.widths)
        self.dtype: torch.dtype = store_dtype(manifest.request.store_dtype)
        self.fingerprint = manifest.request.fingerprint()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """StoreError when there is no store, when it is incomplete, or when a file is missing or of the wrong size."""
        location = Location(path)
        manifest = read_manifest(location)
        if manifest is None:
            raise StoreError(f"no activation store at {path}: it has no {MANIFEST}; make one with saescope harvest")
        if not manifest.complete:
            raise StoreError(
                f"the store {path} is incomplete ({len(manifest.shards)} shards so far); "
                "finish it with the harvest command that began it"
            )
        sizes = location.sizes()
        recorded = {shard.file: shard.bytes for shard in manifest.shards}
        recorded |= {name: file.bytes for name, file in manifest.files.items()}
        for name, size in recorded.items():
            if name not in sizes:
                raise StoreError(f"{_what(name)} is missing from {path}; remove the store and harvest again")
            if sizes[name] != size:
                raise StoreError(
                    f"damaged {_what(name)} in {path}: {sizes[name]:,} bytes, the manifest says {size:,}; "
                    "remove the store and harvest again"
                )
        return cls(location, manifest)

    def __repr__(self) -> str:
        return f"Store({self.path!r}, {', '.join(self.points)}, {self.n_rows:,} rows)"

    @cached_property
    def point_names(self) -> PointNames:
        """Its points, against which expressions such as `resid_post.*` are expanded."""
        # Imported late: a store is read without loading transformers.
        from saescope.lm import PointNames

        return PointNames(self.points, f"the store {self.path}")

    @property
    def n_shards(self) -> int:
        return len(self.manifest.shards)

    @property
    def n_rows(self) -> int:
        return sum(shard.rows for shard in self.manifest.shards)

    def shard_rows(self, split: str) -> list[int]:
        """Rows of that split in each shard, from the manifest alone."""
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
        return [(shard.train if split == "train" else shard.held_out).rows for shard in self.manifest.shards]

    @property
    def kept_rule(self) -> KeptRule:
        return self.manifest.rule()

    @cached_property
    def documents(self) -> list[StoredDocument]:
        """Every document the harvest met; a row's `document` is an index into it."""
        return decode_documents(self._checked_bytes(DOCUMENTS), self.path)

    @property
    def trained_documents(self) -> list[str]:
        """Ids of the documents behind the training rows."""
        return trained_ids(self.documents)

    def shard(self, index: int, *, verify: bool = False) -> Shard:
        """One shard, memory-mapped (a remote one is downloaded first).

        With `verify`, its sha256 is compared with the manifest's, once for this object. StoreError names the shard.
        """
        if not 0 <= index < self.n_shards:
            raise UsageError(f"{self.path} has {self.n_shards} shards, there is none numbered {index}")
        record = self.manifest.shards[index]
        try:
            path = self._location.fetched(record.file)
        except OSError as error:
            raise StoreError(f"cannot read shard {record.file} of {self.path}: {error}") from error
        shard = read_shard(path, f"{record.file} of {self.path}", index, self.widths, record.rows, self.fingerprint)
        if verify and index not in self._vouched:
            self._vouch(record.file, Digest(record.bytes, record.sha256))
            self._vouched.add(index)
        return shard

    def shards(self) -> Iterator[Shard]:
        for index in range(self.n_shards):
            yield self.shard(index)

    def sequence(self, sequence_id: int) -> Int[Tensor, "tokens"]:
        """All token ids of one sequence, the excluded ones too."""
        index, row = divmod(sequence_id, self.manifest.request.shard_sequences)
        if sequence_id < 0 or index >= self.n_shards:
            raise UsageError(f"{self.path} has no sequence {sequence_id}")
        sequences = self.shard(index).sequences
        if row >= len(sequences):
            raise UsageError(f"{self.path} has no sequence {sequence_id}")
        return sequences[row][sequences[row] >= 0]

    def statistics(self) -> dict[str, PointStatistics]:
        """Moments of the training rows at each point."""
        try:
            tensors = load_tensors(self._checked_bytes(STATISTICS))
            n_rows = self.manifest.counts["train"].rows
            return {
                point: PointStatistics(n_rows, tensors[f"mean/{point}"], tensors[f"variance/{point}"])
                for point in self.points
            }
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"{STATISTICS} of {self.path} is damaged; remove the store and harvest again") from error

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer as it was at the harvest, without the model."""
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory(prefix="saescope-tokenizer-") as folder:
            for name in self.manifest.files:
                if name.startswith(TOKENIZER + "/"):
                    target = Path(folder, name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self._location.fetched(name), target)
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(Path(folder, TOKENIZER)))
        return tokenizer

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Hashes every file. StoreError names the first damaged, misplaced or foreign shard, or other file.

        `progress` is told (bytes done, bytes in all).
        """
        total = sum(shard.bytes for shard in self.manifest.shards) + sum(f.bytes for f in self.manifest.files.values())
        done = 0
        for index, record in enumerate(self.manifest.shards):
            self.shard(index, verify=True)
            done += record.bytes
            if progress:
                progress(done, total)
        for name, file in self.manifest.files.items():
            self._vouch(name, Digest(file.bytes, file.sha256))
            done += file.bytes
            if progress:
                progress(done, total)

    def provenance(self) -> dict[str, Any]:
        """What a coder trained on this store records about its data, as JSON."""
        request = self.manifest.request
        return {
            "source": "store",
            "store": self.fingerprint,
            "model": request.model,
            "corpus": request.corpus,
            "sequences": request.sequences,
            "points": dict(request.points),
            "dtype": request.store_dtype,
            "tokens": sum(counts.tokens for counts in self.manifest.counts.values()),
            "kept_rule": self.manifest.kept_rule,
            "trained_documents": self.trained_documents,
        }

    def _checked_bytes(self, name: str) -> bytes:
        try:
            content = self._location.read(name)
        except OSError as error:
            raise StoreError(f"cannot read {name} of {self.path}: {error}") from error
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name].sha256:
            raise StoreError(_not_the_manifests(name, self.path))
        return content

    def _vouch(self, name: str, expected: Digest) -> None:
        try:
            # What was downloaded is what will be read, so that is what gets hashed.
            actual = Location(self._location.fetched(name).parent).hash(Path(name).name)
        except OSError as error:
            raise StoreError(f"cannot read {_what(name)} of {self.path}: {error}") from error
        if actual != expected:
            raise StoreError(_not_the_manifests(name, self.path))


def read_manifest(location: Location) -> Manifest | None:
    """The manifest, complete or not; None where there is none."""
    try:
        return Manifest.parse(location.read(MANIFEST), location.spec)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {location.spec}/{MANIFEST}: {error}") from error


def _not_the_manifests(name: str, path: str) -> str:
    return f"damaged {_what(name)} in {path}: its sha256 is not the manifest's; remove the store and harvest again"


def _what(name: str) -> str:
    return f"shard {name}" if name.startswith(f"{SHARDS}/") else name
