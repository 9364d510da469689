"""One document: its text as the index has it, a page at a time, with where a feature fires in it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from starlette.responses import Response

from saescope.features.index import FeatureIndex
from saescope.features.index.places import DocumentPlaces
from saescope.server import answers
from saescope.server.asking import CoderHere, NotFound, ShownLabels, known_feature, sent
from saescope.server.contexts import Fragment, activations_at, document_shown, merged_tokens, significant
from saescope.server.plain_text import one_line
from saescope.server.served_coder import ServedCoder

router = APIRouter(tags=["document"])
# Tokens within which a page's edge finds a place between characters; one token may end a character and begin the next.
_REACH = 16
_PARTS = 100


@router.get("/coders/{id}/documents/{d}", response_model=answers.DocumentText)
def document(
    coder: CoderHere,
    d: int,
    feature: Annotated[int | None, Query()] = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=16, le=answers.PAGE_LIMIT)] = answers.PAGE_TOKENS,
    at: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """A page of a document's text, in the text's order, with a feature's activations on it. With `at`, a position, it is the
    page that has it, of those at multiples of `limit`. None begins inside a character: it begins a few tokens later."""
    index = coder.index
    if not 0 <= d < len(index.documents):
        raise NotFound(f"there is no document {d} in {coder.id}: it has {len(index.documents):,}, from 0 on")
    if feature is not None:
        known_feature(coder, feature)
    known, places = index.documents[d], index.places[d]
    if at is not None:
        offset = _page_of(index, places, _known_place(coder, d, places, at), limit)
    elif offset and offset >= places.length:
        raise NotFound(f"document {d} has {places.length:,} tokens in {coder.id}; there is none at {offset:,}")
    first, end = _whole(index, places, offset), _whole(index, places, offset + limit)
    return sent(
        {
            "document": document_shown(index, d),
            "split": one_line(known.split[:40]),
            "length": places.length,
            "whole": max(known.n_tokens, places.length),
            "offset": offset,
            "limit": limit,
            "feature": None if feature is None else _feature(coder, feature),
            "firings": None if feature is None else _firings(index, places, feature, first, end, limit),
            "stretches": _stretches(index, places, feature, first, end),
        }
    )


def _known_place(coder: ServedCoder, document: int, places: DocumentPlaces, position: int) -> int:
    place = places.place_of(position) if position < coder.index.n_positions else None
    if place is None:
        raise NotFound(
            f"position {position} is not in document {document} of {coder.id}; leave at out for its beginning"
        )
    return place


def _whole(index: FeatureIndex, places: DocumentPlaces, place: int) -> int:
    """The first place from this one on at which no character is cut: where a page begins, and the one before it ends."""
    if not 0 < place < places.length:
        return min(place, places.length)
    first = max(place - _REACH, 0)
    tokens = index.arrays["tokens"][places.positions(first, place + _REACH)].tolist()
    whole = index.pieces(tokens)
    for end in range(place - first, len(tokens)):
        # Where the text of what is before does not depend on what comes after.
        if index.pieces(tokens[:end])[-1] == whole[end - 1]:
            return first + end
    return place


def _page_of(index: FeatureIndex, places: DocumentPlaces, place: int, limit: int) -> int:
    """The multiple of `limit` at which the page with this place begins."""
    offset = place // limit * limit
    return offset if place >= _whole(index, places, offset) else offset - limit


def _feature(coder: ServedCoder, feature: int) -> dict[str, Any]:
    label = ShownLabels.of(coder)[feature]
    return {"feature": feature, "label": label, "max": significant(float(coder.index.maximum[feature]))}


def _firings(
    index: FeatureIndex, places: DocumentPlaces, feature: int, first: int, end: int, limit: int
) -> dict[str, Any]:
    """`answers.DocumentFirings`"""
    offsets = index.arrays["feature_offsets"]
    own = slice(int(offsets[feature]), int(offsets[feature + 1]))
    positions, values = index.arrays["feature_positions"][own], index.arrays["feature_values"][own]
    numbers, found = places.among(positions)
    low, high = np.searchsorted(found, [first, end]).tolist()

    def firing(number: int) -> dict[str, Any] | None:
        if not 0 <= number < len(numbers):
            return None
        value = float(values[numbers[number]]) * float(index.maximum[feature])
        position = int(positions[numbers[number]])
        return {"position": position, "place": int(found[number]), "value": significant(value)}

    # Parts are whole pages, and never more than a chart can show.
    part = limit * max(1, -(-places.length // (limit * _PARTS)))
    counts = np.bincount(found // part, minlength=-(-places.length // part))
    return {
        "here": high - low,
        "total": len(numbers),
        "previous": firing(low - 1),
        "next": firing(high),
        "strongest": firing(int(values[numbers].argmax())) if len(numbers) else None,
        "part": part,
        "parts": counts.tolist(),
    }


def _stretches(
    index: FeatureIndex, places: DocumentPlaces, feature: int | None, first: int, end: int
) -> list[dict[str, Any]]:
    """`answers.Stretch`es of places first … end - 1. A character that a sequence's end cuts is in the stretch that ends it."""
    positions = places.positions(first, end)
    if not len(positions):
        return []
    pieces = index.pieces(index.arrays["tokens"][positions].tolist())
    kept = index.arrays["kept"][positions].tolist()
    values = np.zeros(len(positions)) if feature is None else activations_at(index, feature, positions)
    stretch = places.stretch_of(np.arange(first, first + len(positions)))
    cuts = [0, *(_completed(pieces, int(cut)) for cut in np.flatnonzero(np.diff(stretch)) + 1), len(pieces)]
    found = []
    for low, high in pairwise(cuts):
        if low == high:
            continue
        own = slice(low, high)
        tokens, _ = merged_tokens(pieces[own], values[own].tolist(), kept[own], positions[own].tolist())
        number = int(stretch[high - 1])
        begins = _begins(index, places, number, first if low == 0 else None)
        found.append({"begins": begins, "place": first + low, "tokens": Fragment(tokens)})
    return found


def _completed(pieces: list[str], cut: int) -> int:
    while cut < len(pieces) and not pieces[cut - 1]:
        cut += 1
    return cut


def _begins(index: FeatureIndex, places: DocumentPlaces, stretch: int, page: int | None) -> str:
    """What is before a stretch; `page`: the place at which a page begins with it."""
    start = int(places.start[stretch])
    if page is not None and page > places.place[stretch]:
        return "page"
    if stretch == 0:
        return "document"
    sequence: NDArray[np.int32] = index.arrays["sequence"]
    return "gap" if sequence[start] == sequence[int(places.end[stretch - 1]) - 1] else "sequence"
