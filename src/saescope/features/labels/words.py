"""The words of an index's text, and what stands at, before and after every position: the vocabulary that labels are made of.

A token is rarely what a person would call a word. Pieces are joined to whole words, the leading space is dropped, and words
that differ in case only are one item beside the item that keeps the case. Each slot holds one item for every position
(-1: none), so that a label's claim about a position is a comparison of whole numbers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saescope.features.labels.compiled import compiled
from saescope.features.labels.source import LabelSource

Items = NDArray[np.int32]

# In the order in which labels prefer them: of two that predict equally well, the earlier one is the simpler thing to say.
SLOTS = (
    "word",
    "exact",
    "token",
    "inside",
    "previous",
    "previous two",
    "next",
    "kind",
    "ending",
    "piece",
    "start",
    "near",
    "context",
)
SLOT = {name: number for number, name in enumerate(SLOTS)}
# The two last are bags: every word of a stretch before the position. `near`: the words before the one at the position.
# `context`: words with content, the one at the position among them.
N_SINGLE = SLOT["near"]
NEAR_WORDS = 5
CONTEXT_TOKENS = 48

# Signs that no word is written with.
SPACE, LINE_BREAK = "␣", "⏎"

# A run of letters and digits that never ends (scripts without spaces) is cut into words of so many tokens.
_LONGEST_WORD = 12
# Words that stand everywhere say nothing about a context.
_EVERYWHERE = 128
_ONE_EVERYWHERE_IN = 50
_LEAST_PAIRS = 4
_ONE_CASE = 0.8
_START = 4

KINDS = (
    "line breaks",
    "spaces",
    "years",
    "numbers",
    "punctuation",
    "words in capitals",
    "capitalised words",
    "single letters",
    "words of other scripts",
    "lower-case words",
    "symbols",
)
PIECES = ("beginnings of words", "middles of words", "ends of words")


@dataclass(frozen=True)
class Words:
    """What every position of an index's text says.

    slots [positions, slots]: the items at each. Words of the text in reading order are runs: run_of [positions], run_start
    [runs + 1], run_item and run_exact [runs] (case folded, and as written). region [positions]: equal within one document
    of one sequence. space: the item of white space. Words that may stand for a context, by themselves: content_of [runs],
    the number of the last one up to each run; content_item and content_end [content], its item and the position after it.
    share [slots, items]: the share of positions that have the item (for bags, roughly, of windows). vocabulary: the text
    of every item; usual: as it is mostly written. anchor: a common token of whole characters, for `reader`.
    """

    slots: Items
    run_of: Items
    run_start: Items
    run_item: Items
    run_exact: Items
    region: Items
    space: int
    content_of: Items
    content_item: Items
    content_end: Items
    share: NDArray[np.float32]
    vocabulary: list[str]
    usual: list[str]
    anchor: int

    @property
    def n_items(self) -> int:
        return len(self.vocabulary)


class _Vocabulary:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self._number: dict[str, int] = {}

    def number(self, text: str) -> int:
        if text not in self._number:
            self._number[text] = len(self.texts)
            self.texts.append(text)
        return self._number[text]

    def numbers(self, texts: Sequence[str]) -> Items:
        return np.fromiter((self.number(text) for text in texts), np.int32, len(texts))


def words_of(source: LabelSource) -> Words:
    """Reads all text of `source` once. Time and memory are linear in its positions."""
    tokens = np.asarray(source.arrays["tokens"])
    document = np.asarray(source.arrays["document"])
    sequence = sequence_of(np.asarray(source.arrays["sequence_offsets"]), tokens.size)
    new = np.ones(tokens.size, np.bool_)
    new[1:] = (document[1:] != document[:-1]) | (sequence[1:] != sequence[:-1])
    region = (np.cumsum(new) - 1).astype(np.int32)
    ids, number = np.unique(tokens, return_inverse=True)
    anchor = _whole_token(source, ids[np.argsort(-np.bincount(number), kind="stable")])
    read = reader(source, anchor)
    texts = [read([int(token)]) for token in ids]
    joins = np.array([_joins(text[:1]) for text in texts])
    goes_on = np.array([_joins(text[-1:]) for text in texts])
    run_of = _runs(number, joins, goes_on, region, _LONGEST_WORD)
    run_start = np.concatenate([np.flatnonzero(np.diff(run_of, prepend=-1)), [tokens.size]]).astype(np.int32)
    vocabulary = _Vocabulary()
    run_exact, kind_of_run = _words(tokens, number, texts, run_start, read, vocabulary)
    folded = vocabulary.numbers([text.casefold() for text in vocabulary.texts])
    run_item = folded[run_exact]
    usual = _usual(run_item, run_exact, vocabulary.texts)
    token_item = vocabulary.numbers([_shown(text).casefold() for text in texts])
    rest_item = vocabulary.numbers(["…" + _shown(text).casefold() for text in texts])
    # A position's slots lie side by side, since one window after the other is read.
    slots = np.full((tokens.size, N_SINGLE), -1, np.int32)
    last = run_start[1:] - 1
    run_region = region[run_start[:-1]]
    slots[last, SLOT["word"]] = run_item
    slots[last, SLOT["exact"]] = run_exact
    slots[:, SLOT["token"]] = token_item[number]
    slots[:, SLOT["inside"]] = run_item[run_of]
    before, before_two = _before(run_item, run_region, usual, vocabulary)
    slots[:, SLOT["previous"]] = before[run_of]
    slots[:, SLOT["previous two"]] = before_two[run_of]
    # The next thing: the rest of this word while inside it, else the whole next word.
    slots[:-1, SLOT["next"]] = np.where(run_of[1:] == run_of[:-1], rest_item[number[1:]], run_item[run_of[1:]])
    slots[np.flatnonzero(np.diff(region, append=-1)), SLOT["next"]] = -1
    slots[:, SLOT["kind"]] = vocabulary.numbers(KINDS)[kind_of_run][run_of]
    slots[last, SLOT["ending"]] = _endings(vocabulary)[run_exact]
    slots[:, SLOT["piece"]] = _pieces(run_of, run_start, vocabulary)
    begins = np.asarray(source.arrays["sequence_offsets"])[sequence]
    slots[np.arange(tokens.size) - begins < _START, SLOT["start"]] = vocabulary.number("start")
    counts = np.bincount(run_item, minlength=len(vocabulary.texts))
    content = _with_content(counts, vocabulary.texts)[run_item]
    return Words(
        slots,
        run_of,
        run_start,
        run_item,
        run_exact,
        region,
        vocabulary.number(SPACE),
        (np.cumsum(content) - 1).astype(np.int32),
        run_item[content],
        run_start[1:][content],
        _shares(slots, counts, run_item.size),
        vocabulary.texts,
        usual + vocabulary.texts[len(usual) :],
        anchor,
    )


def sequence_of(offsets: NDArray[np.int64], n_positions: int) -> Items:
    """The sequence of every position."""
    return (np.searchsorted(offsets, np.arange(n_positions), side="right") - 1).astype(np.int32)


def reader(source: LabelSource, anchor: int) -> Callable[[list[int]], str]:
    """Reads the text of tokens as it stands within a text, behind the token `anchor` (see `Words`)."""
    # Some tokenizers drop the leading space of a text's first token, so none is read as the first.
    return lambda ids: "".join(source.pieces([anchor, *ids])[1:])


def _whole_token(source: LabelSource, tokens: NDArray[np.int32]) -> int:
    """The first of `tokens` that is whole characters; behind a part of one every text would begin with its broken rest."""
    whole = (token for token in tokens.tolist() if (text := source.pieces([token])[0]) and "\ufffd" not in text)
    return next(whole, int(tokens[0]))


def _joins(character: str) -> bool:
    """Whether a word goes on across this character; bytes that are no whole character count as letters."""
    return bool(character) and (character.isalnum() or character == "�" or unicodedata.category(character) == "Mn")


def _shown(text: str) -> str:
    """A token's or word's text without the spaces around it; white space that is all there is has a sign of its own."""
    stripped = text.strip()
    if stripped:
        return stripped
    return LINE_BREAK if "\n" in text else SPACE


@compiled
def _runs(number, joins, goes_on, region, longest):  # type: ignore[no-untyped-def]
    """The word of every position, in reading order."""
    run_of = np.zeros(number.size, np.int32)
    run, length = 0, 1
    for p in range(1, number.size):
        joined = joins[number[p]] and goes_on[number[p - 1]] and region[p] == region[p - 1] and length < longest
        if joined:
            length += 1
        else:
            run += 1
            length = 1
        run_of[p] = run
    return run_of


@compiled
def _run_keys(number, run_start):  # type: ignore[no-untyped-def]
    """A 64-bit hash of each run's tokens."""
    keys = np.empty(run_start.size - 1, np.uint64)
    for run in range(run_start.size - 1):
        key = np.uint64(14695981039346656037)
        for p in range(run_start[run], run_start[run + 1]):
            key = (key ^ np.uint64(number[p] + 1)) * np.uint64(1099511628211)
            key ^= key >> np.uint64(29)
        keys[run] = key
    return keys


def _words(
    tokens: NDArray[np.int32],
    number: NDArray[np.intp],
    texts: list[str],
    run_start: Items,
    read: Callable[[list[int]], str],
    vocabulary: _Vocabulary,
) -> tuple[Items, NDArray[np.uint8]]:
    """The item and the kind (index into KINDS) of every run; each distinct word is read once."""
    _, first, of_run = np.unique(_run_keys(number, run_start), return_index=True, return_inverse=True)
    exact = np.empty(first.size, np.int32)
    kinds = np.empty(first.size, np.uint8)
    for word, run in enumerate(first.tolist()):
        start, stop = int(run_start[run]), int(run_start[run + 1])
        text = texts[number[start]] if stop - start == 1 else read(tokens[start:stop].tolist())
        exact[word] = vocabulary.number(_shown(text))
        kinds[word] = KINDS.index(_kind(text))
    return exact[of_run], kinds[of_run]


def _kind(text: str) -> str:
    word = text.strip()
    if not word:
        return "line breaks" if "\n" in text else "spaces"
    if word.isdigit():
        return "years" if len(word) == 4 and "1000" <= word <= "2099" else "numbers"
    letters = [character for character in word if character.isalpha()]
    if not letters:
        return "punctuation" if all(unicodedata.category(c).startswith("P") for c in word) else "symbols"
    if not all(unicodedata.name(letter, "").startswith("LATIN") for letter in letters):
        return "words of other scripts"
    if len(word) == 1:
        return "single letters"
    if word.isupper():
        return "words in capitals"
    return "capitalised words" if word[0].isupper() else "lower-case words"


def _before(run_item: Items, run_region: Items, usual: list[str], vocabulary: _Vocabulary) -> tuple[Items, Items]:
    """The word before each run's, and the two words before it where that pair is no rarity. Spaces are passed over."""
    runs = np.arange(run_item.size)
    seen = np.maximum.accumulate(np.where(run_item != vocabulary.number(SPACE), runs, -1))
    one = np.concatenate([[-1], seen[:-1]])
    two = np.where(one >= 0, one[one], -1)
    before = np.where((one >= 0) & (run_region[one] == run_region), run_item[one], -1).astype(np.int32)
    pair = run_item[two].astype(np.int64) << 32 | run_item[one]
    pair[(two < 0) | (run_region[two] != run_region)] = -1
    found, of_run, counts = np.unique(pair, return_inverse=True, return_counts=True)
    item = np.full(found.size, -1, np.int32)
    for number in np.flatnonzero((found >= 0) & (counts >= _LEAST_PAIRS)).tolist():
        first, second = int(found[number] >> 32), int(found[number] & 0xFFFFFFFF)
        item[number] = vocabulary.number(f"{usual[first]} {usual[second]}")
    return before, item[of_run]


def _usual(run_item: Items, run_exact: Items, texts: list[str]) -> list[str]:
    """How each item is mostly written: in the one way that the text has it, or, where it has several, in lower case."""
    exact, first, counts = np.unique(run_exact, return_index=True, return_counts=True)
    item = run_item[first]
    total = np.bincount(item, counts, minlength=len(texts))
    usual = list(texts)
    for number in np.flatnonzero(counts >= _ONE_CASE * total[item]).tolist():
        usual[item[number]] = texts[exact[number]]
    return usual


def _endings(vocabulary: _Vocabulary) -> Items:
    """The last letters of every item that is a longer lower-case word."""
    endings = np.full(len(vocabulary.texts), -1, np.int32)
    for item, text in enumerate(list(vocabulary.texts)):
        if len(text) >= 5 and text.isascii() and text.isalpha() and text[1:].islower():
            length = 2 if text.endswith(("ed", "ly")) else 3
            endings[item] = vocabulary.number("-" + text[-length:])
    # Items that came since are endings themselves.
    return np.concatenate([endings, np.full(len(vocabulary.texts) - endings.size, -1, np.int32)])


def _pieces(run_of: Items, run_start: Items, vocabulary: _Vocabulary) -> Items:
    """Where in a word of several pieces each position is."""
    length = np.diff(run_start)[run_of]
    within = np.arange(run_of.size) - run_start[:-1][run_of]
    place = np.where(within == 0, 0, np.where(within == length - 1, 2, 1))
    return np.where(length > 1, vocabulary.numbers(PIECES)[place], -1).astype(np.int32)


def _with_content(counts: NDArray[np.int64], texts: list[str]) -> NDArray[np.bool_]:
    # Of a few hundred words even the commonest may be what the text is about.
    n_common = min(_EVERYWHERE, int((counts > 0).sum()) // _ONE_EVERYWHERE_IN)
    content = np.fromiter((len(text) > 1 and any(c.isalpha() for c in text) for text in texts), np.bool_, len(texts))
    content[np.argsort(-counts, kind="stable")[:n_common]] = False
    return content


def _shares(slots: Items, counts: NDArray[np.int64], n_runs: int) -> NDArray[np.float32]:
    share = np.zeros((len(SLOTS), counts.size), np.float32)
    for number, slot in enumerate(slots.T):
        share[number] = np.bincount(slot[slot >= 0], minlength=counts.size) / max(slot.size, 1)
    word = counts / max(n_runs, 1)
    share[SLOT["near"]] = 1 - (1 - word) ** NEAR_WORDS
    share[SLOT["context"]] = 1 - (1 - word) ** (CONTEXT_TOKENS * n_runs / max(slots.shape[0], 1))
    return share
