"""Contexts as the page takes them: many at once from the index's arrays, half-character tokens merged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saescope.features.index import FeatureIndex
from saescope.server.plain_text import one_line, plain

BEFORE = AFTER = 16
# Tokens within which there is a place between characters; one token may end a character and begin the next.
_REACH = 16


def contexts(
    index: FeatureIndex, feature: int, peaks: Sequence[int], before: int = BEFORE, after: int = AFTER
) -> list[Fragment]:
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
    values = activations_at(index, feature, clipped)
    tokens, kept = arrays["tokens"][clipped], arrays["kept"][clipped]
    found = []
    for row in range(len(peak)):
        window = np.flatnonzero(joined[row, 1:-1]) + 1
        low, high = int(window[0]), int(window[-1]) + 1
        pieces = index.pieces(tokens[row, low:high].tolist())
        begin, stop = _whole_edges(pieces, before + 1 - low)
        cut_low, cut_high = low + begin, low + stop
        piece = slice(cut_low, cut_high)
        shown, at = merged_tokens(
            pieces[begin:stop],
            values[row, piece].tolist(),
            kept[row, piece].tolist(),
            places[row, piece].tolist(),
            before + 1 - cut_low,
        )
        more_before = begin > 0 or (low == 1 and bool(joined[row, 0]))
        more_after = stop < len(pieces) or (high == joined.shape[1] - 1 and bool(joined[row, -1]))
        found.append(
            Fragment(
                f'{{"position":{peak[row]},"document":{document_shown(index, int(own_document[row]))},"tokens":{shown},'
                f'"peak":{at},"value":{values[row, before + 1]:.4g},'
                f'"more_before":{_KEPT[more_before]},"more_after":{_KEPT[more_after]}}}'
            )
        )
    return found


def _whole_edges(pieces: Sequence[str], peak: int) -> tuple[int, int]:
    """First and one past the last token between which no character is cut at the window's edge; the peak stays."""
    begin, end = 0, len(pieces)
    # A character has at most four bytes: three tokens are the most that a cut can spoil.
    while begin < min(3, peak) and (not pieces[begin] or pieces[begin].startswith("\ufffd")):
        begin += 1
    while end - 1 > max(peak, len(pieces) - 4) and (not pieces[end - 1] or pieces[end - 1].endswith("\ufffd")):
        end -= 1
    return begin, end


def merged_tokens(
    pieces: Sequence[str], values: Sequence[float], kept: Sequence[int], positions: Sequence[int], peak: int = 0
) -> tuple[str, int]:
    """`answers.ContextToken`s, and the place of the peak among them. Tokens that only together make whole characters become
    one, with the largest of their values and the position of the last."""
    if "" in pieces:
        return _merged(pieces, values, kept, positions, peak)
    # Nearly always. A page has thousands of tokens, so they are written as JSON here and now.
    tokens = [
        f'{{"t":{_ENCODED[text]},"v":{f"{value:.4g}" if value else 0},"k":{_KEPT[code]},"p":{place}}}'
        for text, value, code, place in zip(pieces, values, kept, positions, strict=True)
    ]
    return f"[{','.join(tokens)}]", peak


def _merged(
    pieces: Sequence[str], values: Sequence[float], kept: Sequence[int], positions: Sequence[int], peak: int
) -> tuple[str, int]:
    tokens: list[str] = []
    peak_at = 0
    for number, (text, start, end) in enumerate(merged_spans(pieces)):
        if start <= peak < end:
            peak_at = number
        value, code = max(values[start:end]), max(kept[start:end])
        tokens.append(f'{{"t":{json.dumps(text)},"v":{value:.4g},"k":{_KEPT[code]},"p":{positions[end - 1]}}}')
    return f"[{','.join(tokens)}]", peak_at


class Fragment(str):
    """JSON already."""

    __slots__ = ()


class _Encoded(dict[str, str]):
    """Texts of tokens, and titles, as JSON strings, each made once: there are no more than an index has."""

    def __missing__(self, text: str) -> str:
        self[text] = json.dumps(plain(text), ensure_ascii=False)
        return self[text]


_ENCODED = _Encoded()
_KEPT = ("false", "true")


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


def whole_character(index: FeatureIndex, position: int) -> tuple[str, range]:
    """The text of the token at a position, and the positions that are merged with it where pages show it."""
    first, end = index.reach(position)
    low, high = max(first, position - _REACH), min(end, position + _REACH)
    spans = merged_spans(index.pieces(index.arrays["tokens"][low:high].tolist()))
    text, start, stop = next(span for span in spans if span[1] <= position - low < span[2])
    return text, range(low + start, low + stop)


def short(text: str) -> str:
    """The beginning of a title or a source, in one line, however long it is."""
    return one_line(text[:400])[:200]


def document_shown(index: FeatureIndex, document: int) -> Fragment:
    """`answers.Document`"""
    if document < 0:
        return Fragment('{"index":-1,"title":"","source":""}')
    known = index.documents[document]
    title, source = (_ENCODED[short(text)] for text in (known.title, known.source))
    return Fragment(f'{{"index":{document},"title":{title},"source":{source}}}')


def token_shown(index: FeatureIndex, token: int) -> str:
    """A token by itself."""
    return plain(index.pieces([token])[0]) if token >= 0 else ""


def significant(value: float) -> float:
    """Four significant digits: what a page can show, at a fraction of the bytes."""
    return float(f"{value:.4g}")


def significant_all(values: NDArray[Any]) -> list[float]:
    return [significant(value) for value in values.tolist()]


def activations_at(index: FeatureIndex, feature: int, places: NDArray[np.int64]) -> NDArray[np.float32]:
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
