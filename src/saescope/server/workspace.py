"""What is served: every feature index below a folder, with its coder, its labels, its numbers, and what people added."""

from __future__ import annotations

import json
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saescope.activations import KeptRule
from saescope.errors import CoderError, FeatureIndexError, WorkspaceError
from saescope.evaluation.definitions import BY_KEY
from saescope.evaluation.subject import Subject
from saescope.features.index import FeatureIndex, coder_fingerprint
from saescope.features.index.manifest import KIND, MANIFEST
from saescope.features.index.progress import PROGRESS
from saescope.features.index.sources import sources_of
from saescope.features.labels import read_labels
from saescope.features.search import MeaningSearch
from saescope.lm import LanguageModel
from saescope.server.browse import FeatureTable
from saescope.server.labels import AutomaticLabels, automatic_labels, labels_version
from saescope.server.people import People
from saescope.server.plain_text import one_line

METRICS_FILE = "metrics.json"
# How deep below the workspace indexes are looked for, and how often, in seconds.
_DEPTH = 6
_RESCAN = 2.0
# Forms of features that a person understands at a glance.
_TELLING = ("token", "phrase", "context", "output-promoting")
_SHOWN_METRICS = (
    "fvu_centered", "explained_variance", "cosine", "l0", "dead_fraction", "dense_10", "ce_recovered_mean",
    "ce_increase", "kl",
)  # fmt: skip


class ServedCoder:
    """One index and the coder it is of. Reading it never waits for the model."""

    def __init__(self, identity: str, index: FeatureIndex, people: People) -> None:
        self.id = identity
        self.index = index
        self.people = people
        self.metrics: dict[str, Any] | None = None
        self.name = index.manifest.coder.name
        self.fingerprint = index.manifest.coder.fingerprint
        self._labels = AutomaticLabels()
        self._labels_looked_at = -math.inf
        self._labels_lock, self._subject_lock = threading.Lock(), threading.Lock()
        self._meaning_lock = threading.Lock()
        self._meaning: tuple[str, MeaningSearch] | None = None
        self._subject: Subject | None = None
        self.label_problem = ""

    @property
    def labels(self) -> AutomaticLabels:
        """The automatic labels as they are on disk now; a newer file is also put into the search."""
        if self._looked_at_labels():
            return self._labels
        with self._labels_lock:
            # Who waited here has what another found: never less than all of it.
            if not self._looked_at_labels():
                try:
                    self._renew_labels()
                finally:
                    self._labels_looked_at = time.monotonic()
        return self._labels

    def _looked_at_labels(self) -> bool:
        return time.monotonic() - self._labels_looked_at < 1.0

    def _renew_labels(self) -> None:
        version = labels_version(self.index)
        if version == self._labels.version:
            return
        try:
            labels = automatic_labels(self.index, version)
            self.label_problem = ""
        except FeatureIndexError as error:
            # The labels that were there go on being shown.
            self.label_problem = str(error)
            return
        found = [(feature, label.text) for feature, label in labels.by_feature.items()]
        self.people.load_automatic(self.fingerprint, labels.version, found)
        # Last: what could not be put into the search is tried again.
        self._labels = labels

    @cached_property
    def table(self) -> FeatureTable:
        return FeatureTable(self.index)

    @property
    def meaning(self) -> MeaningSearch:
        """The search by meaning, of the labels as they are now; read, or made, at the first query after they change."""
        version = self.labels.version
        with self._meaning_lock:
            if self._meaning is None or self._meaning[0] != version:
                self._meaning = version, MeaningSearch.of(self.index, read_labels(self.index))
            return self._meaning[1]

    @cached_property
    def forms(self) -> list[str]:
        return list(self.index.manifest.names.get("forms", []))

    @cached_property
    def live_features(self) -> np.ndarray:
        """The features that fire, ascending."""
        return np.flatnonzero(self.index.count)

    @cached_property
    def first_feature(self) -> int:
        """One that is worth seeing first: neither rare nor dense, with clear output tokens or a good label."""
        index, live = self.index, self.live_features
        if not len(live):
            return 0
        density = index.density[live]
        interest = np.where((density > 1e-4) & (density < 1e-2), 1.0, 0.0)
        if index.has("form") and self.forms:
            telling = [number for number, name in enumerate(self.forms) if name in _TELLING]
            interest += 0.5 * np.isin(np.asarray(index.arrays["form"])[live], telling)
        if index.has("lens_peak"):
            interest += np.clip(np.nan_to_num(np.asarray(index.arrays["lens_peak"], np.float64)[live]), 0, 20) / 40
        scores = {feature: label.score for feature, label in self.labels.by_feature.items() if label.score is not None}
        interest += np.array([scores.get(int(feature), 0.0) for feature in live])
        return int(live[interest.argmax()])

    @cached_property
    def tokens_of_sources(self) -> list[int]:
        """How many tokens with codes each source of text has, in the order of the manifest's names."""
        index = self.index
        names = index.manifest.names.get("sources", [])
        own = np.asarray(index.arrays["document"])[np.asarray(index.arrays["kept"]) > 0]
        of_document = np.bincount(own[own >= 0], minlength=len(index.documents))
        counted, source_of = sources_of(index.documents)
        counts = dict(zip(counted, np.bincount(source_of, of_document, len(counted)).tolist(), strict=True))
        return [int(counts.get(name, 0)) for name in names]

    def members(self, family: int) -> list[int]:
        """The features of a family, those that fire most first."""
        own = np.flatnonzero(np.asarray(self.index.arrays["family"]) == family)
        return [int(feature) for feature in own[np.argsort(-self.index.count[own], kind="stable")]]

    def model_spec(self) -> str:
        return str(self.index.manifest.model.get("spec") or "")

    def why_not(self, spec: str = "", lm: LanguageModel | None = None) -> str:
        """Why the coder cannot be run on text with the model of that spec, as far as can be said without loading anything;
        empty where it can."""
        own = self.index.manifest.model
        other = own.get("weights") not in (None, lm.identity()["weights"]) if lm is not None else False
        if other or (lm is None and spec and own.get("spec") not in (None, spec)):
            return (
                f"it is a coder of {own.get('spec') or own.get('name')}, the server has {lm.spec if lm else spec}; "
                f"serve it with --model {own.get('spec') or own.get('name')}"
            )
        path = self.index.coder_path
        if path is None:
            return "the index was built from a coder in memory; save the coder and index its folder"
        if not path.is_dir():
            return f"its coder is no longer at {path}; put it back, or index it again"
        return ""

    def subject(self) -> Subject:
        """The coder itself, loaded once. CoderError where it is gone or no longer the one that was indexed."""
        with self._subject_lock:
            if self._subject is None:
                if reason := self.why_not():
                    raise CoderError(f"{self.name} cannot be run: {reason}")
                path = self.index.coder_path
                assert path is not None
                subject = Subject.of(path)
                if coder_fingerprint(subject.coder) != self.fingerprint:
                    raise CoderError(f"the coder at {path} is not the one that was indexed; index it again")
                subject.coder.requires_grad_(False)
                self._subject = subject
            return self._subject

    def kept_rule(self) -> KeptRule | None:
        return self.subject().kept_rule()


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
