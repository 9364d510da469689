"""What is served: every feature index below a folder."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from saescope.errors import FeatureIndexError, WorkspaceError
from saescope.features.index import FeatureIndex
from saescope.features.index.manifest import KIND, MANIFEST
from saescope.features.index.progress import PROGRESS
from saescope.server.evaluations import METRICS_FILE, Evaluations, changed_at, json_in
from saescope.server.people import People
from saescope.server.plain_text import one_line
from saescope.server.served_coder import ServedCoder

# How deep below the workspace indexes are looked for, and how often, in seconds.
_DEPTH = 6
_RESCAN = 2.0


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
        self._evaluations = Evaluations()
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
        if self._is_old():
            self.scan(only_if_old=True)

    def _is_old(self) -> bool:
        return time.monotonic() - self._scanned > _RESCAN

    def scan(self, *, only_if_old: bool = False) -> None:
        with self._lock:
            # Who waited here has what another found.
            if only_if_old and not self._is_old():
                return
            manifests: list[Path] = []
            records: list[Path] = []
            for path in _walk(self.folder):
                (manifests if path.name == MANIFEST else records).append(path)
            self._evaluations.look(records)
            # Other threads go over what is there meanwhile, so it is replaced, not changed.
            found = _Found(dict(self.coders), {}, {})
            changed = {path.parent: changed_at(path) for path in manifests}
            for folder, known in list(self._known.items()):
                # Gone, or built anew: what is mapped of the old one is another index's.
                if changed.get(folder) != known.changed:
                    del found.coders[known.identity], self._known[folder]
            # The oldest first: who has a name keeps it as its id, also after a restart and under another folder.
            for folder in sorted(changed, key=lambda folder: (changed[folder], folder)):
                if folder not in self._known:
                    self._add(folder, changed[folder], found)
            served = [coder.index.manifest.coder for coder in found.coders.values()]
            for coder in found.coders.values():
                coder.metrics = self._evaluations.of(coder.index.manifest.coder, served)
            self.coders, self.problems, self.building = found
            self._scanned = time.monotonic()

    def _add(self, folder: Path, changed: int, found: _Found) -> None:
        manifest = json_in(folder / MANIFEST)
        if not isinstance(manifest, dict):
            if (folder / "arrays").is_dir():
                found.problems[folder] = (
                    f"damaged {folder / MANIFEST}: it is not JSON; remove the index and build it again"
                )
            return
        if manifest.get("kind") != KIND:
            return
        if manifest.get("complete") is not True:
            progress = json_in(folder / PROGRESS)
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
        identity = _unique(slug(index.manifest.coder.name), index.manifest.coder.fingerprint, found.coders)
        found.coders[identity] = ServedCoder(identity, index, self.people)
        self._known[folder] = _Known(identity, changed)

    def close(self) -> None:
        if self._people is not None:
            self._people.close()


def slug(name: str) -> str:
    """A name as part of an address: lower case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80] or "coder"


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


def _unique(wanted: str, fingerprint: str, taken: dict[str, Any]) -> str:
    if wanted not in taken:
        return wanted
    own = name = f"{wanted}-{fingerprint[:6]}"
    number = 2
    while name in taken:
        # Another index of the same coder.
        name, number = f"{own}-{number}", number + 1
    return name
