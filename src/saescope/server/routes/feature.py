"""One feature: everything the index knows of it, from memory-mapped arrays alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from starlette.responses import Response

from saescope.features.index import ExampleGroup
from saescope.server import answers
from saescope.server.asking import CoderHere, FeatureHere, NotFound, ShownLabels, sent
from saescope.server.contexts import contexts, short, significant, significant_all, token_shown, whole_character
from saescope.server.labels import made_at
from saescope.server.plain_text import one_line
from saescope.server.routes.features import family_of, shown_part
from saescope.server.served_coder import ServedCoder

router = APIRouter(tags=["feature"])
_FAMILY_SHOWN = 40


@router.get("/coders/{id}/features/{f}", response_model=answers.Feature)
def feature(coder: CoderHere, f: FeatureHere) -> Response:
    """All of a feature's page."""
    index, people, shown = coder.index, coder.people, ShownLabels.of(coder)
    groups = [_shown(group, first=number == 0) for number, group in enumerate(index.examples(f))]
    # All examples at once: most of the work is the same for many as for one.
    found = iter(contexts(index, f, [position for group in groups for position in group.positions]))
    groups_shown: list[dict[str, Any]] = [
        {
            "name": group.name,
            "low": significant(group.low),
            "high": significant(group.high),
            "contexts": [next(found) for _ in group.positions],
        }
        for group in groups
    ]
    note = people.text("note", coder.fingerprint, f)
    label = people.text("label", coder.fingerprint, f)
    return sent(
        {
            **shown_part(coder, f, shown),
            "label": shown.scored(f),
            "starred": f in shown.additions.starred,
            "example": groups_shown[0]["contexts"][0] if groups_shown else None,
            "count": int(index.count[f]),
            "mean": significant(float(index.mean[f])),
            "decoder_norm": _one(coder, "decoder_norm", f),
            "histogram": _histogram(coder, f),
            "groups": groups_shown,
            "outputs_top": _outputs(coder, "lens_top", f),
            "outputs_bottom": _outputs(coder, "lens_bottom", f),
            "coactive": _coactive(coder, f, shown),
            "nearest_decoder": _nearest(coder, "nearest_decoder", f, shown),
            "nearest_encoder": _nearest(coder, "nearest_encoder", f, shown),
            "neurons": _neurons(coder, f),
            "position_profile": _profile(coder, f),
            "sources": _sources(coder, f),
            "documents": _documents(coder, f),
            "family": _family(coder, f, shown),
            "splits_into": _splits(index.splits.into(f), shown),
            "split_of": _splits(index.splits.of(f), shown),
            "note": {"text": note.text, "revision": note.revision},
            "label_revision": label.revision,
            "label_history": _history(coder, f),
            "lists": people.lists_of(coder.fingerprint, f),
            "previous": _live_neighbour(coder, f, -1),
            "next": _live_neighbour(coder, f, 1),
        }
    )


def _shown(group: ExampleGroup, *, first: bool) -> ExampleGroup:
    """The strongest examples all, of the others every second: they are spread over their fifth all the same, and a page that
    people read has no use for ninety."""
    return group if first else replace(group, positions=group.positions[::2])


@router.get("/coders/{id}/features/{f}/context", response_model=answers.Context)
def context(
    coder: CoderHere,
    f: FeatureHere,
    position: Annotated[int, Query(ge=0)],
    before: Annotated[int, Query(ge=0, le=answers.CONTEXT_LIMIT)] = 64,
    after: Annotated[int, Query(ge=0, le=answers.CONTEXT_LIMIT)] = 64,
) -> Response:
    """The feature over the text around a position, never beyond its document or sequence."""
    return sent(contexts(coder.index, f, [_known_position(coder, position)], before, after)[0])


@router.get("/coders/{id}/positions/{p}", response_model=answers.Position)
def position(coder: CoderHere, p: int) -> Response:
    """What fires at a position of the indexed text, strongest first; where its token is only a part of a character, on any
    token of that."""
    index, shown = coder.index, ShownLabels.of(coder)
    text, places = whole_character(index, _known_position(coder, p))
    values: dict[int, float] = {}
    for place in places:
        firing = index.at(place)
        for number, value in zip(firing.features.tolist(), firing.values.tolist(), strict=True):
            values[number] = max(value, values.get(number, 0.0))
    return sent(
        {
            "token": text,
            "features": [
                {
                    "feature": number,
                    "label": shown[number],
                    "value": significant(value),
                    "share_of_max": significant(value / max(float(index.maximum[number]), 1e-30)),
                }
                for number, value in sorted(values.items(), key=lambda one: -one[1])
            ],
        }
    )


def _known_position(coder: ServedCoder, position: int) -> int:
    if not 0 <= position < coder.index.n_positions:
        raise NotFound(f"there is no position {position} in {coder.id}: it has {coder.index.n_positions:,}, from 0 on")
    return position


def _one(coder: ServedCoder, name: str, feature: int) -> float | None:
    return significant(float(coder.index.arrays[name][feature])) if coder.index.has(name) else None


def _histogram(coder: ServedCoder, feature: int) -> dict[str, Any]:
    edges = np.asarray(coder.index.arrays["histogram_edges"]) * float(coder.index.maximum[feature])
    return {"edges": significant_all(edges), "counts": coder.index.arrays["histogram"][feature].tolist()}


def _outputs(coder: ServedCoder, name: str, feature: int) -> list[dict[str, Any]]:
    index = coder.index
    if not index.has(name):
        return []
    tokens, logits = index.arrays[name][feature].tolist(), index.arrays[f"{name}_logits"][feature].tolist()
    return [
        {"token": token, "text": token_shown(index, token), "logit": significant(logit)}
        for token, logit in zip(tokens, logits, strict=True)
    ]


def _coactive(coder: ServedCoder, feature: int, shown: ShownLabels) -> list[dict[str, Any]]:
    arrays = coder.index.arrays
    if not coder.index.has("coactive"):
        return []
    rows = zip(
        *(arrays[name][feature].tolist() for name in ("coactive", "coactive_count", "coactive_lift", "coactive_phi")),
        strict=True,
    )
    return [
        {
            "feature": other,
            "label": shown[other],
            "count": count,
            "lift": significant(lift),
            "phi": significant(phi),
        }
        for other, count, lift, phi in rows
        if other >= 0
    ]


def _nearest(coder: ServedCoder, name: str, feature: int, shown: ShownLabels) -> list[dict[str, Any]]:
    index = coder.index
    if not index.has(name):
        return []
    near, cosines = index.arrays[name][feature].tolist(), index.arrays[f"{name}_cosine"][feature].tolist()
    return [
        {"feature": other, "label": shown[other], "cosine": significant(cosine)}
        for other, cosine in zip(near, cosines, strict=True)
        if other >= 0
    ]


def _neurons(coder: ServedCoder, feature: int) -> list[dict[str, Any]]:
    index = coder.index
    if not index.has("neurons"):
        return []
    dimensions, weights = index.arrays["neurons"][feature].tolist(), index.arrays["neuron_weights"][feature].tolist()
    return [
        {"dimension": dimension, "weight": significant(weight)}
        for dimension, weight in zip(dimensions, weights, strict=True)
        if dimension >= 0
    ]


def _profile(coder: ServedCoder, feature: int) -> dict[str, Any]:
    index = coder.index
    own = np.asarray(index.arrays["position_profile"][feature], np.float64)
    base = np.asarray(index.arrays["position_base"], np.float64)
    return {
        "bins": index.manifest.names.get("position_bins", [str(number) for number in range(len(own))]),
        "share": significant_all(own / max(own.sum(), 1)),
        "base": significant_all(base / max(base.sum(), 1)),
    }


def _sources(coder: ServedCoder, feature: int) -> list[dict[str, Any]]:
    """Each source of text, and the share of its tokens on which the feature fires."""
    index = coder.index
    names = index.manifest.names.get("sources", [])
    tokens = coder.tokens_of_sources
    counts = index.arrays["source_counts"][feature].tolist()
    return [
        {"name": short(name), "count": count, "density": significant(count / max(1, int(own)))}
        for name, count, own in zip(names, counts, tokens, strict=True)
    ]


def _documents(coder: ServedCoder, feature: int) -> list[dict[str, Any]]:
    index = coder.index
    numbers = index.arrays["top_documents"][feature].tolist()
    counts = index.arrays["top_document_counts"][feature].tolist()
    return [
        {"index": number, "title": short(index.documents[number].title), "count": count}
        for number, count in zip(numbers, counts, strict=True)
        if number >= 0
    ]


def _family(coder: ServedCoder, feature: int, shown: ShownLabels) -> dict[str, Any] | None:
    family = family_of(coder, feature)
    if family is None:
        return None
    members = coder.members(family)[:_FAMILY_SHOWN]
    return {"id": family, "members": [{"feature": member, "label": shown[member]} for member in members]}


def _splits(found: list[tuple[int, float]], shown: ShownLabels) -> list[dict[str, Any]]:
    return [{"feature": other, "label": shown[other], "score": significant(share)} for other, share in found]


def _history(coder: ServedCoder, feature: int) -> list[dict[str, Any]]:
    entries = [
        {"text": one.text, "source": "person" if one.accepted else "conflict", "created": one.created}
        for one in coder.people.history("label", coder.fingerprint, feature)
    ]
    automatic = coder.labels.by_feature.get(feature)
    if automatic is not None:
        entries.append(
            {
                "text": one_line(automatic.text[: answers.LABEL_LIMIT]),
                "source": automatic.kind,
                "created": made_at(automatic),
            }
        )
    return entries


def _live_neighbour(coder: ServedCoder, feature: int, step: int) -> int | None:
    """The next feature that fires, in that direction."""
    live = coder.live_features
    place = int(np.searchsorted(live, feature, side="left" if step < 0 else "right"))
    place = place - 1 if step < 0 else place
    return int(live[place]) if 0 <= place < len(live) else None
