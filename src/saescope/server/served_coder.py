"""One index that is served, with its coder, its labels, its numbers, and what people added."""

from __future__ import annotations

import math
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saescope.activations import KeptRule
from saescope.errors import CoderError, FeatureIndexError
from saescope.evaluation.subject import Subject
from saescope.features.index import FeatureIndex, coder_fingerprint
from saescope.features.index.sources import sources_of
from saescope.features.labels import read_labels
from saescope.features.search import MeaningSearch
from saescope.lm import LanguageModel
from saescope.lm.identity import weights_differ
from saescope.server.browse import FeatureTable
from saescope.server.labels import AutomaticLabels, automatic_labels, labels_version
from saescope.server.people import People

# Forms of features that a person understands at a glance.
_TELLING = ("token", "phrase", "context", "output-promoting")
_CODER_FILES = (".json", ".npz", ".safetensors")
_Stamp = list[tuple[str, int, int]]


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
        self._subject: tuple[_Stamp, Subject] | None = None
        self.label_problem = ""

    @property
    def labels(self) -> AutomaticLabels:
        """The automatic labels as they are on disk now."""
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
            self._labels = automatic_labels(self.index, version)
            self.label_problem = ""
        except FeatureIndexError as error:
            # The labels that were there go on being shown.
            self.label_problem = str(error)

    def search(self, query: str) -> list[tuple[int, float]]:
        """Features whose label, as it is shown now, has the query's words; relevance as `People.search` gives it."""
        labels = self.labels
        # Read only where they are not loaded yet.
        found = ((feature, label.text) for feature, label in labels.by_feature.items())
        # One file searches the labels of one index of a coder at a time, and there may be several.
        with self.people.searching:
            self.people.load_automatic(self.fingerprint, labels.version, found)
            return self.people.search(self.fingerprint, query)

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
        other = lm is not None and weights_differ(own.get("weights"), lm.identity()["weights"])
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

    def subject(self, device: torch.device | None = None) -> Subject:
        """The coder itself, loaded once and whenever its files change, on `device` where one is asked for. CoderError where it
        is gone or no longer the one that was indexed."""
        with self._subject_lock:
            path = self.index.coder_path
            stamp = _stamp(path)
            if self._subject is None or self._subject[0] != stamp:
                self._subject = None
                if reason := self.why_not():
                    raise CoderError(f"{self.name} cannot be run: {reason}")
                assert path is not None
                subject = Subject.of(path)
                if coder_fingerprint(subject.coder) != self.fingerprint:
                    raise CoderError(f"the coder at {path} is not the one that was indexed; index it again")
                subject.coder.requires_grad_(False)
                self._subject = stamp, subject
            if device is not None:
                self._subject = stamp, self._subject[1].on(device)
            return self._subject[1]

    def kept_rule(self) -> KeptRule | None:
        return self.subject().kept_rule()


def _stamp(folder: Path | None) -> _Stamp:
    """Tells, cheaply, whether a coder's files are still those that were read. People's, which change all day, are not its."""
    try:
        files = [path for path in folder.iterdir() if path.suffix in _CODER_FILES] if folder is not None else []
        return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    except OSError:
        return []
