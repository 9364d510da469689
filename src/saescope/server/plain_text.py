"""Text of people and corpora made safe to keep, send and show. What it means is left to the page: it is never HTML."""

from __future__ import annotations

from saescope.reports.escaping import is_shapeless

_LAYOUT = frozenset("\n\t")


def plain(text: str) -> str:
    """`text` with what has no shape as U+FFFD: control characters but line ends and tabs, lone surrogates (which UTF-8
    cannot carry), line and paragraph separators, direction overrides. Right-to-left text itself stays."""
    if text.isprintable():
        return text
    return "".join(
        "\ufffd" if character not in _LAYOUT and is_shapeless(character) else character for character in text
    )


def one_line(text: str) -> str:
    """`plain`, with every run of white space as one space."""
    return plain(" ".join(text.split()))
