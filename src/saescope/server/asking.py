"""What every route asks for: the workspace, a coder, a feature; and how answers are sent."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from starlette.responses import Response

from saescope.errors import SaescopeError
from saescope.server.answers import LABEL_LIMIT
from saescope.server.contexts import Fragment
from saescope.server.jobs import Jobs
from saescope.server.labels import AutomaticLabels
from saescope.server.model_worker import ModelWorker
from saescope.server.people import Additions
from saescope.server.plain_text import plain
from saescope.server.served_coder import ServedCoder
from saescope.server.workspace import Workspace


class NotFound(SaescopeError):  # noqa: N818 - as the status it becomes
    """No such coder, feature or position here."""


@dataclass(frozen=True)
class Served:
    """What one application serves."""

    workspace: Workspace
    worker: ModelWorker
    jobs: Jobs

    def coder(self, identity: str) -> ServedCoder:
        found = self.workspace.coder(identity)
        if found is None:
            known = ", ".join(self.workspace.coders)[:200]
            raise NotFound(f"there is no coder {plain(identity)[:80]!r} here; there are {known}")
        return found


def _served(request: Request) -> Served:
    served: Served = request.app.state.served
    return served


ServedNow = Annotated[Served, Depends(_served)]


def _coder(served: ServedNow, id: Annotated[str, Path(max_length=100)]) -> ServedCoder:
    return served.coder(id)


CoderHere = Annotated[ServedCoder, Depends(_coder)]


def _feature(coder: CoderHere, f: int) -> int:
    return known_feature(coder, f)


FeatureHere = Annotated[int, Depends(_feature)]


def known_feature(coder: ServedCoder, feature: int) -> int:
    if not 0 <= feature < coder.index.d_sae:
        raise NotFound(f"there is no feature {feature} in {coder.id}: it has {coder.index.d_sae:,}, from 0 on")
    return feature


@dataclass(frozen=True)
class ShownLabels:
    """The label of any feature as it is now: a person's, else the automatic one."""

    automatic: AutomaticLabels
    additions: Additions
    _shown: dict[int, dict[str, Any] | None] = field(default_factory=dict)

    @staticmethod
    def of(coder: ServedCoder) -> ShownLabels:
        return ShownLabels(coder.labels, coder.people.additions(coder.fingerprint))

    def __getitem__(self, feature: int) -> dict[str, Any] | None:
        """`answers.Label`"""
        if feature not in self._shown:
            self._shown[feature] = self._label(feature)
        return self._shown[feature]

    def scored(self, feature: int) -> dict[str, Any] | None:
        """`answers.ScoredLabel`"""
        shown = self[feature]
        own = self.automatic.by_feature.get(feature)
        if shown is None or own is None or shown["source"] == "person":
            return shown and {**shown, "interval": None, "controls": {}}
        controls = {plain(name[:40]): _rounded(value) for name, value in own.controls.items() if math.isfinite(value)}
        interval = None if own.interval is None else [_rounded(bound) for bound in own.interval]
        return {**shown, "interval": interval, "controls": controls}

    def _label(self, feature: int) -> dict[str, Any] | None:
        person = self.additions.labels.get(feature)
        if person is not None:
            return {"text": person, "source": "person", "score": None}
        own = self.automatic.by_feature.get(feature)
        if own is None:
            return None
        score = None if own.score is None else _rounded(own.score)
        return {"text": plain(own.text[:LABEL_LIMIT]), "source": own.kind, "score": score}


def _rounded(score: float) -> float:
    return float(f"{score:.3f}")


def sent(content: Any) -> Response:
    """JSON made straight from plain values, with its fragments as they are (no deeper than in a list in a list): a page of
    contexts has thousands of tokens, and that answers have their types has been tried by tests."""
    return Response(_encoded(content, 4).encode("utf-8", "replace"), media_type="application/json")


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _encoded(content: Any, depth: int) -> str:
    if isinstance(content, Fragment):
        return content
    if depth and isinstance(content, dict):
        return (
            "{"
            + ",".join(f"{_JSON.encode(str(key))}:{_encoded(value, depth - 1)}" for key, value in content.items())
            + "}"
        )
    if depth and isinstance(content, list) and content and isinstance(content[0], dict | Fragment):
        return "[" + ",".join(_encoded(value, depth - 1) for value in content) + "]"
    return _JSON.encode(content)
