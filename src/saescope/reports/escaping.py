"""The one way by which words get into the page. Tokens and titles come from any text in the world; names from any file."""

from __future__ import annotations

import unicodedata
from html import escape

# Embeddings, overrides and isolates: they could reorder text around them.
_DIRECTION_CONTROLS = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
_SIGNS = {"\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """Escaped for HTML, with what has no shape shown: line ends as ↵, tabs as ⇥, other control characters, lone
    surrogates, line separators and direction overrides as U+FFFD."""
    return escape("".join(_SIGNS.get(character) or _shape(character) for character in text))


def _shape(character: str) -> str:
    return "\ufffd" if is_shapeless(character) else character


def is_shapeless(character: str) -> bool:
    """Whether a character shows nothing by itself, or reorders what is around it."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTION_CONTROLS
