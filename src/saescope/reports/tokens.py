"""Contexts as HTML. Tokens come from any text in the world, so nothing of them is trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from saescope.features import Context
from saescope.reports.escaping import visible

Pieces = Callable[[Sequence[int]], list[str]]
# Shades of the activation colour; the style sheet has a class for each.
SHADES = 8


@dataclass(frozen=True)
class Piece:
    """A token's text for display, or that of several that only together make whole characters."""

    text: str
    value: float
    peak: bool


def merged(context: Context, pieces: Pieces) -> list[Piece]:
    """A context's tokens; those that are parts of one character become one piece with their largest value."""
    found: list[Piece] = []
    value, peak = 0.0, False
    for index, text in enumerate(pieces(context.tokens)):
        value, peak = max(value, context.activations[index]), peak or index == context.peak
        if text:
            found.append(Piece(text, value, peak))
            value, peak = 0.0, False
    if (value or peak) and found:
        last = found[-1]
        found[-1] = Piece(last.text, max(last.value, value), last.peak or peak)
    return found


def context_html(context: Context, pieces: Pieces, maximum: float, title: str) -> str:
    """One context as a list item. `maximum` is the feature's largest activation, which sets the darkest shade."""
    parts = [_piece_html(piece, maximum) for piece in merged(context, pieces)]
    source = f'<span class="source">{visible(title)}</span>' if title else ""
    value = f'<span class="value">{context.value:.3g}</span>'
    return f'<li><div class="meta">{value}{source}</div><bdi class="text">{"".join(parts)}</bdi></li>'


def _piece_html(piece: Piece, maximum: float) -> str:
    if not piece.value and not piece.peak:
        return visible(piece.text)
    # Spaces before a word stay unshaded, or they would hang at a line's end.
    word = piece.text.lstrip(" ") or piece.text
    space = piece.text[: len(piece.text) - len(word)]
    shade = max(1, min(SHADES, round(SHADES * piece.value / maximum))) if maximum > 0 else 1
    value = f"{piece.value:.3g}"
    tag, place = ("mark", "0") if piece.peak else ("span", "-1")
    attributes = f'class="t a{shade}" tabindex="{place}" title="{value}" data-v="{value}"'
    return f"{space}<{tag} {attributes}>{visible(word)}</{tag}>"
