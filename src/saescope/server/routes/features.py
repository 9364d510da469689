"""The table of features, and what the overview draws of all of them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query
from starlette.responses import Response

from saescope.features.index.loops import NONE
from saescope.server import answers
from saescope.server.asking import CoderHere, ShownLabels, sent
from saescope.server.browse import Filters, Row, Sort
from saescope.server.contexts import contexts, significant, significant_all, token_shown
from saescope.server.served_coder import ServedCoder

router = APIRouter(tags=["features"])
_MAP_LIMIT = 50_000
_DENSITY_BINS_PER_DECADE = 5
_CARD_OUTPUTS = 6
_MOST_FOUND = 2000
# An index keeps levels in 16 bits.
_MOST_LEVELS = 2**15 - 1


@router.get("/coders/{id}/density", response_model=answers.Histogram)
def density(coder: CoderHere) -> Response:
    """How many live features have which density: edges are log10 of the share of tokens."""
    live = coder.index.density[coder.live_features]
    if not len(live):
        return sent({"edges": [-1.0, 0.0], "counts": [0]})
    logs = np.log10(live)
    low = math.floor(float(logs.min()))
    edges = np.linspace(low, 0.0, max(1, -low) * _DENSITY_BINS_PER_DECADE + 1)
    counts, _ = np.histogram(np.clip(logs, low, 0.0), edges)
    return sent({"edges": significant_all(edges), "counts": counts.tolist()})


@router.get("/coders/{id}/map", response_model=answers.FeatureMap)
def feature_map(coder: CoderHere) -> Response:
    """Where each live feature's decoder direction lies in two dimensions; a random part of very many."""
    index, live = coder.index, coder.live_features
    if not index.has("map"):
        return sent({"features": [], "x": [], "y": [], "density": [], "form": [], "family": []})
    place = np.asarray(index.arrays["map"])
    live = live[np.isfinite(place[live]).all(1)]
    if len(live) > _MAP_LIMIT:
        live = np.sort(np.random.default_rng(0).choice(live, _MAP_LIMIT, replace=False))
    return sent(
        {
            "features": live.tolist(),
            "x": significant_all(place[live, 0]),
            "y": significant_all(place[live, 1]),
            "density": significant_all(index.density[live]),
            "form": [form_of(coder, int(feature)) for feature in live],
            "family": [family_of(coder, int(feature)) for feature in live],
        }
    )


@router.get("/coders/{id}/features", response_model=answers.Features)
def features(
    coder: CoderHere,
    q: Annotated[str, Query(max_length=1000)] = "",
    by: Literal["label", "meaning"] = "label",
    form: Annotated[str, Query(max_length=40)] = "",
    level: Annotated[int | None, Query(ge=0, le=_MOST_LEVELS)] = None,
    min_density: Annotated[float | None, Query(ge=0, le=1)] = None,
    max_density: Annotated[float | None, Query(ge=0, le=1)] = None,
    min_score: float | None = None,
    starred: bool = False,
    list: Annotated[str | None, Query(max_length=200)] = None,
    sort: Sort | None = None,
    order: Literal["asc", "desc"] | None = None,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 30,
) -> Response:
    """A page of features, filtered and sorted. A query finds by the words of labels, or by meaning; a number finds the feature
    of that number too. Without a query, what never fires is left out."""
    shown = ShownLabels.of(coder)
    relevance = found_by(coder, shown, q, by) if q.strip() else None
    sort = sort or ("relevance" if relevance is not None else "density")
    if sort == "relevance" and relevance is None:
        sort = "density"
    descending = order == "desc" if order else sort not in ("feature", "label")
    filters = Filters(
        form=form or None,
        level=level,
        min_density=min_density,
        max_density=max_density,
        min_score=min_score,
        starred=starred,
        list=list or None,
        relevance=relevance,
        live=not starred and not list,
    )
    total, rows = coder.table.rows(
        shown.automatic, shown.additions, filters, sort=sort, descending=descending, offset=offset, limit=limit
    )
    starred_now = set(shown.additions.starred)
    return sent({"total": total, "items": [_card(coder, row, shown, starred_now) for row in rows]})


def found_by(coder: ServedCoder, shown: ShownLabels, query: str, by: str) -> dict[int, float]:
    """Relevance of what a query finds."""
    # What people wrote is found by its words, and comes first.
    said = dict(coder.search(query))
    if by == "label":
        found = said
    else:
        found = dict(coder.meaning.query(query, _MOST_FOUND))
        best = max(found.values(), default=0.0)
        found |= {feature: best + one for feature, one in said.items() if feature in shown.additions.labels}
    number = query.strip().removeprefix("#")
    if number.isascii() and number.isdigit() and len(number) < 10 and int(number) < coder.index.d_sae:
        found[int(number)] = max(found.values(), default=0.0) + 1
    return found


def form_of(coder: ServedCoder, feature: int) -> str | None:
    if not coder.index.has("form") or not coder.forms:
        return None
    number = int(coder.index.arrays["form"][feature])
    return coder.forms[number] if number < len(coder.forms) else None


def level_of(coder: ServedCoder, feature: int) -> int | None:
    # With one level there is nothing to say.
    if not coder.index.has("level") or len(coder.index.manifest.coder.levels) < 2:
        return None
    level = int(coder.index.arrays["level"][feature])
    return level if level >= 0 else None


def family_of(coder: ServedCoder, feature: int) -> int | None:
    if not coder.index.has("family"):
        return None
    family = int(coder.index.arrays["family"][feature])
    return family if family >= 0 else None


def outputs_of(coder: ServedCoder, feature: int, n: int = _CARD_OUTPUTS) -> list[str]:
    if not coder.index.has("lens_top"):
        return []
    return [token_shown(coder.index, int(token)) for token in coder.index.arrays["lens_top"][feature, :n]]


def shown_part(coder: ServedCoder, feature: int, shown: ShownLabels) -> dict[str, Any]:
    """What cards and pages of a feature have in common, but its example and its family."""
    return {
        "feature": feature,
        "label": shown[feature],
        "density": significant(float(coder.index.density[feature])),
        "max": significant(float(coder.index.maximum[feature])),
        "form": form_of(coder, feature),
        "level": level_of(coder, feature),
        "outputs": outputs_of(coder, feature),
    }


def _card(coder: ServedCoder, row: Row, shown: ShownLabels, starred: set[int]) -> dict[str, Any]:
    peak = int(coder.index.arrays["example_positions"][row.feature, 0, 0])
    example = contexts(coder.index, row.feature, [peak], 12, 12)[0] if peak != NONE else None
    return {
        **shown_part(coder, row.feature, shown),
        "family": family_of(coder, row.feature),
        "starred": row.feature in starred,
        "example": example,
        "relevance": None if row.relevance is None else significant(row.relevance),
    }
