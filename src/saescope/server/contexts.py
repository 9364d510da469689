"""Contexts as the page takes them: many at once from the index's arrays, half-character tokens merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saescope.features.index import FeatureIndex
from saescope.server.plain_text import one_line, plain

BEFORE = AFTER = 16


def contexts(
    index: FeatureIndex, feature: int, peaks: Sequence[int], before: int = BEFORE, after: int = AFTER
) -> list[dict[str, Any]]:
    """`answers.Context` of a feature around each of these positions, in their order: tokens of one document in one sequence."""
    if not len(peaks):
        return []
    arrays = index.arrays
    peak = np.asarray(peaks, np.int64)
    sequence = arrays["sequence"][peak]
    offsets = arrays["sequence_offsets"]
    first, end = offsets[sequence], offsets[sequence.astype(np.int64) + 1]
    # One more on each side, to know whether there is more.
    places = peak[:, None] + np.arange(-before - 1, after + 2)
    inside = (places >= first[:, None]) & (places < end[:, None])
    clipped = np.clip(places, 0, index.n_positions - 1)
    document = arrays["document"][clipped]
    own_document = document[:, before + 1]
    inside &= document == own_document[:, None]
    # Only what is joined to the peak without a gap.
    left = np.logical_and.accumulate(inside[:, before + 1 :: -1], axis=1)[:, ::-1]
    right = np.logical_and.accumulate(inside[:, before + 1 :], axis=1)
    joined = np.concatenate([left, right[:, 1:]], axis=1)
    values = _activations(index, feature, clipped)
    tokens, kept = arrays["tokens"][clipped], arrays["kept"][clipped]
    found = []
    for row in range(len(peak)):
        window = np.flatnonzero(joined[row, 1:-1]) + 1
        low, high = int(window[0]), int(window[-1]) + 1
        piece = slice(low, high)
        shown, at = merged_tokens(
            index.pieces(tokens[row, piece].tolist()),
            values[row, piece].tolist(),
            kept[row, piece].tolist(),
            int(places[row, low]),
            before + 1 - low,
        )
        found.append(
            {
                "position": int(peak[row]),
                "document": document_shown(index, int(own_document[row])),
                "tokens": shown,
                "peak": at,
                "value": significant(float(values[row, before + 1])),
                "more_before": low == 1 and bool(joined[row, 0]),
                "more_after": high == joined.shape[1] - 1 and bool(joined[row, -1]),
            }
        )
    return found


def merged_tokens(
    pieces: Sequence[str], values: Sequence[float], kept: Sequence[int], first: int, peak: int
) -> tuple[list[dict[str, Any]], int]:
    """The tokens to show and the place of the peak among them. Tokens that only together make whole characters become one,
    with the largest of their values and the position of the last."""
    shown: list[dict[str, Any]] = []
    peak_at = 0
    value, has_code, pending = 0.0, False, False
    for place, (text, own, code) in enumerate(zip(pieces, values, kept, strict=True)):
        value, has_code, pending = max(value, own), has_code or bool(code), True
        if place == peak:
            peak_at = len(shown)
        if text:
            shown.append({"t": plain(text), "v": significant(value), "k": has_code, "p": first + place})
            value, has_code, pending = 0.0, False, False
    if pending and not shown:
        shown.append({"t": "", "v": significant(value), "k": has_code, "p": first + len(pieces) - 1})
    elif pending:
        last = shown[-1]
        last["v"], last["k"] = max(last["v"], significant(value)), last["k"] or has_code
    return shown, min(peak_at, len(shown) - 1)


def merged_spans(pieces: Sequence[str]) -> list[tuple[str, int, int]]:
    """Text, first and one past the last token, of each run of tokens that makes whole characters."""
    found: list[tuple[str, int, int]] = []
    start = 0
    for place, text in enumerate(pieces):
        if text:
            found.append((plain(text), start, place + 1))
            start = place + 1
    if start < len(pieces):
        if found:
            text, first, _ = found[-1]
            found[-1] = (text, first, len(pieces))
        else:
            found.append(("", 0, len(pieces)))
    return found


def document_shown(index: FeatureIndex, document: int) -> dict[str, Any]:
    if document < 0:
        return {"index": -1, "title": "", "source": ""}
    known = index.documents[document]
    return {"index": document, "title": one_line(known.title)[:200], "source": one_line(known.source)[:200]}


def token_shown(index: FeatureIndex, token: int) -> str:
    """A token by itself."""
    return plain(index.pieces([token])[0]) if token >= 0 else ""


def significant(value: float) -> float:
    """Four significant digits: what a page can show, at a fraction of the bytes."""
    return float(f"{value:.4g}")


def significant_all(values: NDArray[Any]) -> list[float]:
    return [significant(value) for value in values.tolist()]


def _activations(index: FeatureIndex, feature: int, places: NDArray[np.int64]) -> NDArray[np.float32]:
    """The feature's activation at each of these positions, 0 where it is silent."""
    offsets = index.arrays["feature_offsets"]
    piece = slice(int(offsets[feature]), int(offsets[feature + 1]))
    own = index.arrays["feature_positions"][piece]
    if not len(own):
        return np.zeros(places.shape, np.float32)
    at = np.searchsorted(own, places.astype(own.dtype))
    at = np.minimum(at, len(own) - 1)
    fires = own[at] == places
    values: NDArray[np.float32] = index.arrays["feature_values"][piece][at].astype(np.float32)
    return np.where(fires, values * index.maximum[feature], np.float32(0))
