"""A rule in words: what a label says is what its score was measured on."""

from __future__ import annotations

from typing import Any

import numpy as np

from saescope.features.labels.rules import Rules
from saescope.features.labels.words import LINE_BREAK, PIECES, SLOT, SLOTS, SPACE, Words

# What a person's eye takes in at once.
LONGEST = 120
_LONGEST_WORD = 24
_SAYS_ENOUGH = 0.75
_PEAKS = 3

_PIECES = {
    frozenset(PIECES[:2]): "unfinished words",
    frozenset(PIECES[1:]): "later pieces of words",
    frozenset(PIECES[::2]): "beginnings and ends of words",
}
_NAMED = {SPACE: "space", LINE_BREAK: "line break"}
_AT_POSITION = ("word", "exact", "token")


def text_of(groups: list[dict[str, Any]], *, either: bool) -> str:
    """The label of a rule's groups [{"where": slot, "words": [text, …]}]: `"New" before "York"`, `text about Alaska`."""
    if not groups:
        return "no pattern found"
    if either:
        return _cut(" or ".join(_alone(group) for group in groups))
    if len(groups) == 1:
        return _cut(_alone(groups[0]))
    heads = [group for group in groups if _is_head(group["where"])]
    rest = [group for group in groups if group not in heads]
    head = _alone(heads[0]) if heads else "words"
    return _cut(" ".join([head, *(_modifier(group) for group in sorted(rest, key=_order))]))


def with_peaks(text: str, groups: list[dict[str, Any]], fit: float, peaks: list[str]) -> str:
    """The label with the words at the feature's strongest firings, where it alone would say too little of what the feature is
    for: it predicts badly, or names a kind of word only."""
    said = {word.casefold().strip("…") for group in groups for word in group["words"]}
    new = [peak for peak in peaks if peak.casefold() not in said]
    vague = all(group["where"] in ("kind", "piece", "start", "ending") for group in groups)
    if not new or not (vague or fit < _SAYS_ENOUGH):
        return text
    return _cut(f"{text}; most on {_quoted(new)}")


def peaks_of(strongest: np.ndarray[Any, Any], words: Words) -> list[str]:
    """The words of the strongest firings: those that come back, most often first, else the two strongest."""
    inside = words.slots[strongest, SLOT["inside"]]
    items, first, counts = np.unique(inside, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    again = [items[at] for at in order if counts[at] > 1][:_PEAKS]
    return [_printable(words.usual[item]) for item in again or [items[at] for at in order[:2]]]


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"


def _is_head(where: str) -> bool:
    return where in (*_AT_POSITION, "inside", "kind", "ending", "piece")


def _order(group: dict[str, Any]) -> int:
    return ("previous", "previous two", "near", "next", "start", "context").index(group["where"])


def _alone(group: dict[str, Any]) -> str:
    where, words = group["where"], group["words"]
    if where in _AT_POSITION:
        return _quoted(words)
    if where == "inside":
        return f"parts of {_quoted(words)}"
    if where == "kind":
        return " and ".join(words)
    if where == "piece":
        return _PIECES.get(frozenset(words), " and ".join(words))
    if where == "ending":
        return f"words ending in {_quoted(words)}"
    if where == "start":
        return "the first tokens of a context"
    if where == "context":
        return f"text about {', '.join(words)}"
    if where == "next" and all(word.startswith("…") for word in words):
        return f"then {_quoted([word[1:] for word in words])}"
    return f"words {_modifier(group)}"


def _modifier(group: dict[str, Any]) -> str:
    where, words = group["where"], group["words"]
    if where in ("previous", "previous two"):
        return f"after {_quoted(words)}"
    if where == "near":
        return f"soon after {_quoted(words)}"
    if where == "next":
        return f"before {_quoted(words)}"
    if where == "start":
        return "at the start of a context"
    return f"in text about {', '.join(words)}"


def _quoted(words: list[str]) -> str:
    return ", ".join(_NAMED.get(word, f'"{word}"') for word in words)


def parts_of(rules: Rules, row: int, words: Words, continued: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """The groups of one rule as JSON: where, words and their weights (z). `continued` [items]: the share of an item's
    occurrences as a token that go on with a word begun before; such a piece is shown as …ing."""
    groups = []
    for group in range(2):
        slot = int(rules.slot[row, group])
        if slot < 0:
            continue
        items = [int(item) for item in rules.item[row, group] if item >= 0]
        written = words.vocabulary if slot == SLOT["exact"] else words.usual
        shown = [_printable(written[item]) for item in items]
        if slot == SLOT["token"]:
            shown = [f"…{text}" if continued[item] > 0.8 else text for item, text in zip(items, shown, strict=True)]
        weights = [round(float(weight), 2) for weight in rules.weight[row, group, : len(items)]]
        groups.append({"where": SLOTS[slot], "words": shown, "weights": weights})
    return groups


def continuing(words: Words) -> np.ndarray[Any, Any]:
    """For every item the share of its occurrences as a token that are not a word's beginning."""
    token = words.slots[:, SLOT["token"]]
    later = np.arange(token.size) > words.run_start[words.run_of]
    counts = np.bincount(token, minlength=words.n_items)
    share: np.ndarray[Any, Any] = np.bincount(token, later, minlength=words.n_items) / np.maximum(counts, 1)
    return share


def _printable(text: str) -> str:
    # Text of a corpus is not to be trusted: nothing may break a line or turn the direction of writing.
    shown = "".join(character if character.isprintable() else "�" for character in text)
    return shown if len(shown) <= _LONGEST_WORD else shown[: _LONGEST_WORD - 1] + "…"
