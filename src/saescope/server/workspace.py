"""What is served: every feature index below a folder."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saescope.errors import FeatureIndexError, WorkspaceError
from saescope.evaluation.definitions import BY_KEY
from saescope.features.index import FeatureIndex
from saescope.features.index.manifest import KIND, MANIFEST
from saescope.features.index.progress import PROGRESS
from saescope.server.people import People
from saescope.server.plain_text import one_line
from saescope.server.served_coder import ServedCoder

METRICS_FILE = "metrics.json"
# How deep below the workspace indexes are looked for, and how often, in seconds.
_DEPTH = 6
_RESCAN = 2.0
_SHOWN_METRICS = (
    "fvu_centered", "explained_variance", "cosine", "l0", "dead_fraction", "dense_10", "ce_recovered_mean",
    "ce_increase", "kl",
)  # fmt: skip


class _Known(NamedTuple):
    """A coder's id, and when its index's manifest was last written."""

    identity: str
    changed: int


class _Found(NamedTuple):
    """What one look at the folder found: coders by id, and by folder what is wrong and how far it is."""

    coders: dict[str, ServedCoder]
    problems: dict[Path, str]
    building: dict[Path, dict[str, Any]]


class Workspace:
    """The indexes at or below a folder.

    WorkspaceError where there is none, FeatureIndexError, naming the file, where the only ones there are damaged.
    New indexes are found while it is open; one that is damaged or unfinished is told in `problems` and `building`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise WorkspaceError(f"there is no folder {folder}; make an index with saescope index CODER --store STORE")
        self.coders: dict[str, ServedCoder] = {}
        self.problems: dict[Path, str] = {}
        self.building: dict[Path, dict[str, Any]] = {}
        self._known: dict[Path, _Known] = {}
        self._records: dict[Path, tuple[int, Any]] = {}
        self._lock = threading.Lock()
        self._scanned = 0.0
        self._people: People | None = None
        self.scan()
        if not self.coders:
            if self.problems:
                raise FeatureIndexError(next(iter(self.problems.values())))
            raise WorkspaceError(
                f"there is no finished feature index in {folder}; make one with saescope index CODER --store STORE "
                f"--out {self.folder / 'index'}"
            )

    @property
    def people(self) -> People:
        # Only once there is something to serve is a file put into the folder.
        if self._people is None:
            self._people = People(self.folder)
        return self._people

    @property
    def title(self) -> str:
        return one_line(self.folder.resolve().name) or "workspace"

    def coder(self, identity: str) -> ServedCoder | None:
        if identity not in self.coders:
            self.refresh()
        return self.coders.get(identity)

    def refresh(self) -> None:
        """Look again for indexes, unless that was done just now."""
        if time.monotonic() - self._scanned > _RESCAN:
            self.scan()

    def scan(self) -> None:
        with self._lock:
            manifests: list[Path] = []
            records: list[Path] = []
            for path in _walk(self.folder):
                (manifests if path.name == MANIFEST else records).append(path)
            metrics = self._metrics(records)
            # Other threads go over what is there meanwhile, so it is replaced, not changed.
            found = _Found(dict(self.coders), {}, {})
            changed = {path.parent: _changed(path) for path in manifests}
            for folder, known in list(self._known.items()):
                # Gone, or built anew: what is mapped of the old one is another index's.
                if changed.get(folder) != known.changed:
                    del found.coders[known.identity], self._known[folder]
            for folder in changed:
                if folder not in self._known:
                    self._add(folder, changed[folder], found)
            for coder in found.coders.values():
                coder.metrics = metrics.get(coder.name)
            self.coders, self.problems, self.building = found
            self._scanned = time.monotonic()

    def _metrics(self, paths: list[Path]) -> dict[str, Any]:
        """The newest evaluation of every coder, by its name; files are read again when they change."""
        self._records = {
            path: known
            if (known := self._records.get(path)) and known[0] == _changed(path)
            else (_changed(path), _json(path))
            for path in paths
        }
        found: dict[str, Any] = {}
        for _, content in sorted(self._records.values(), key=lambda known: known[0]):
            for record in content if isinstance(content, list) else [content]:
                if isinstance(record, dict) and isinstance(record.get("coder"), dict) and "name" in record["coder"]:
                    found[str(record["coder"]["name"])] = record
        return found

    def _add(self, folder: Path, changed: int, found: _Found) -> None:
        manifest = _json(folder / MANIFEST)
        if not isinstance(manifest, dict):
            if (folder / "arrays").is_dir():
                found.problems[folder] = f"damaged {folder / MANIFEST}: it is not JSON; build the index again"
            return
        if manifest.get("kind") != KIND:
            return
        if manifest.get("complete") is not True:
            progress = _json(folder / PROGRESS)
            about = manifest.get("coder")
            found.building[folder] = {
                "name": str(about.get("name", folder.name) if isinstance(about, dict) else folder.name),
                **(progress if isinstance(progress, dict) else {}),
            }
            return
        try:
            index = FeatureIndex.open(folder)
        except FeatureIndexError as error:
            found.problems[folder] = str(error)
            return
        identity = _unique(slug(index.manifest.coder.name), found.coders)
        found.coders[identity] = ServedCoder(identity, index, self.people)
        self._known[folder] = _Known(identity, changed)

    def close(self) -> None:
        if self._people is not None:
            self._people.close()


def slug(name: str) -> str:
    """A name as part of an address: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "coder"


def shown_metrics(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """A coder's numbers beside its controls', as `saescope eval` wrote them."""
    if record is None:
        return None
    found = {}
    for key in _SHOWN_METRICS:
        value = _number(record["coder"].get(key))
        if value is None:
            continue
        controls = {
            name: number
            for name, numbers in record.get("controls", {}).items()
            if isinstance(numbers, dict) and (number := _number(numbers.get(key))) is not None
        }
        interval = (record.get("intervals", {}).get("coder") or {}).get(key)
        found[key] = {"label": BY_KEY[key].label, "value": value, "controls": controls, "interval": interval}
    return found or None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _walk(folder: Path) -> Iterator[Path]:
    """Manifests and metrics files, without going into an index or into hidden folders."""
    base = len(folder.parts)
    for here, folders, files in os.walk(folder, followlinks=True):
        path = Path(here)
        for name in (MANIFEST, METRICS_FILE):
            if name in files:
                yield path / name
        inside = MANIFEST in files and "arrays" in folders
        deep = len(path.parts) - base >= _DEPTH
        folders[:] = [] if inside or deep else sorted(name for name in folders if not name.startswith("."))


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _unique(wanted: str, taken: dict[str, Any]) -> str:
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}-{number}", number + 1
    return name
