"""What people add to features."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from saescope.server import answers
from saescope.server.asking import CoderHere, FeatureHere, ServedNow, ShownLabels, sent

router = APIRouter(tags=["people"])
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": answers.Problem, "description": "Someone was faster; what was sent is in the history."}
}


@router.put("/coders/{id}/features/{f}/label", response_model=answers.LabelKept, responses=_CONFLICT)
def label(asked: answers.LabelAsked, coder: CoderHere, f: FeatureHere) -> Response:
    """Write a label over the revision that was seen; an empty text gives the automatic label back."""
    kept = coder.people.write("label", coder.fingerprint, f, asked.text, asked.revision)
    return sent({"label": ShownLabels.of(coder)[f], "revision": kept.revision})


@router.put("/coders/{id}/features/{f}/note", response_model=answers.Revised, responses=_CONFLICT)
def note(asked: answers.NoteAsked, coder: CoderHere, f: FeatureHere) -> Response:
    """Write a note over the revision that was seen."""
    kept = coder.people.write("note", coder.fingerprint, f, asked.text, asked.revision)
    return sent({"text": kept.text, "revision": kept.revision})


@router.put("/coders/{id}/features/{f}/star", response_model=answers.Star)
def star(asked: answers.Star, coder: CoderHere, f: FeatureHere) -> Response:
    """Star a feature, or take its star away."""
    coder.people.star(coder.fingerprint, f, asked.starred)
    return sent({"starred": asked.starred})


@router.put("/coders/{id}/features/{f}/lists", response_model=answers.Lists)
def lists_of(asked: answers.Lists, coder: CoderHere, f: FeatureHere) -> Response:
    """Put a feature into exactly these lists."""
    return sent({"lists": coder.people.put_in_lists(coder.fingerprint, f, asked.lists)})


@router.get("/lists", response_model=answers.ListCounts)
def lists(served: ServedNow) -> Response:
    """Every list of the workspace."""
    return sent({"lists": [{"name": name, "count": count} for name, count in served.workspace.people.lists()]})
