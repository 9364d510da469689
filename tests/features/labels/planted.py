"""An index in memory over made-up text with features planted in it: what each fires on is known, so labels can be wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saescope.features import Context

# Pieces as a tokenizer's: a leading space begins a word.
COMMON = [" the", " of", " and", " to", " in", " a", " was", " he", " it", " on", ".", ","]
PLAIN = [
    f" {first}{second}" for first in ("ba", "do", "ki", "lu", "me", "po") for second in ("ran", "vel", "sit", "mog")
]
SEA = [" harbour", " sailor", " tide", " anchor"]
LAW = [" court", " judge", " verdict", " appeal"]
NAMES = [" New", " York", " Ein", "stein", " Alaska", " alaska", " old", " new"]
VERBS = [" walk", " talk", "ing", "ed"]
VOCABULARY = ["<s>", *COMMON, *PLAIN, *SEA, *LAW, *NAMES, *VERBS, "\n", " 1", "9", "5", " <b>", " zebra"]
NUMBER = {text: number for number, text in enumerate(VOCABULARY)}

Fires = Callable[[list[str], int], bool]


def before(tokens: list[str], at: int, n: int = 1) -> str:
    return tokens[at - n] if at >= n else ""


def after(tokens: list[str], at: int) -> str:
    return tokens[at + 1] if at + 1 < len(tokens) else ""


PLANTED: dict[str, Fires] = {
    "Einstein": lambda t, p: t[p] == "stein" and before(t, p) == " Ein",
    "New before York": lambda t, p: t[p] in (" New", " new") and after(t, p) == " York",
    "after of the": lambda t, p: before(t, p) == " the" and before(t, p, 2) == " of",
    "sea": lambda t, p: any(word in SEA for word in t[max(0, p - 47) : p + 1]),
    "then ing": lambda t, p: after(t, p) == "ing",
    "Alaska": lambda t, p: t[p] in (" Alaska", " alaska"),
    "court": lambda t, p: t[p] in (" court", " judge"),
    "line": lambda t, p: t[p] == "\n",
}
FEATURE = {name: number for number, name in enumerate(PLANTED)}
RANDOM_FEATURE = len(PLANTED)
RARE_FEATURE = RANDOM_FEATURE + 1
DEAD_FEATURE = RARE_FEATURE + 1


@dataclass
class PlantedIndex:
    """As much of a `FeatureIndex` as labels and search read, in memory."""

    arrays: dict[str, NDArray[Any]]
    documents: list[Any]
    d_sae: int
    path: Path = field(default_factory=Path)

    @property
    def n_positions(self) -> int:
        return int(self.arrays["tokens"].size)

    def has(self, name: str) -> bool:
        return name in self.arrays

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        return [VOCABULARY[token] if token >= 0 else "" for token in tokens]

    def fires_at(self, feature: int) -> NDArray[np.uint32]:
        low, high = self.arrays["feature_offsets"][feature : feature + 2]
        return self.arrays["feature_positions"][low:high]

    def firings(self, feature: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        low, high = self.arrays["feature_offsets"][feature : feature + 2]
        values = self.arrays["feature_values"][low:high].astype(np.float32) * self.arrays["maximum"][feature]
        return self.arrays["feature_positions"][low:high], values

    def context(self, feature: int, position: int, before: int = 16, after: int = 16) -> Context:
        document = self.arrays["document"]
        offsets = self.arrays["sequence_offsets"]
        sequence = int(np.searchsorted(offsets, position, side="right") - 1)
        first = last = position
        while first > max(offsets[sequence], position - before) and document[first - 1] == document[position]:
            first -= 1
        while last + 1 < min(offsets[sequence + 1], position + after + 1) and document[last + 1] == document[position]:
            last += 1
        positions, values = self.firings(feature)
        active = dict(zip(positions.tolist(), values.tolist(), strict=True))
        return Context(
            self.arrays["tokens"][first : last + 1].tolist(),
            [active.get(p, 0.0) for p in range(first, last + 1)],
            position - first,
            int(document[position]),
            sequence,
            position - int(offsets[sequence]),
        )


class BytesIndex(PlantedIndex):
    """One whose first token and commonest one are the first byte of a character: what is read behind them is broken."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        found = super().pieces(tokens)
        if tokens[0] not in (int(self.arrays["tokens"][0]), int(np.bincount(self.arrays["tokens"]).argmax())):
            return found
        return ["\ufffd"] if len(tokens) == 1 else ["", "\ufffd" + found[1], *found[2:]]


def many_features(index: PlantedIndex, n: int) -> PlantedIndex:
    """`n` features that fire at random on an index's text, with as many examples as an index has."""
    rng = np.random.default_rng(0)
    kept = np.flatnonzero(index.arrays["kept"])
    own = [np.sort(rng.choice(kept, 400, replace=False)) for _ in range(n)]
    examples = np.stack([rng.choice(one, 96, replace=False).reshape(6, 16) for one in own])
    arrays = {
        **index.arrays,
        "feature_positions": np.concatenate(own).astype(np.uint32),
        "feature_offsets": np.arange(n + 1, dtype=np.int64) * 400,
        "feature_values": rng.uniform(0.1, 1, 400 * n).astype(np.float16),
        "maximum": np.ones(n, np.float32),
        "example_positions": examples.astype(np.uint32),
    }
    return PlantedIndex(arrays, index.documents, n)


def planted_index(n_sequences: int = 240, length: int = 128, seed: int = 0) -> PlantedIndex:
    """Two sequences a document. Plain words with the planted phrases strewn in; every fourth document is about the sea,
    every fourth about the law."""
    rng = np.random.default_rng(seed)
    phrases = [
        [" Ein", "stein"],
        [" Ein", " the"],
        [" New", " York"],
        [" new", " York"],
        *[[" old", " York"]] * 16,
        [" New", " the"],
        [" new", " a"],
        [" of", " the"],
        [" walk", "ing"],
        [" talk", "ed"],
        [" talk", "ing"],
        [" walk", " on"],
        [" Alaska"],
        [" the", " alaska"],
        ["\n"],
        [" 1", "9", "9", "5"],
        [" <b>"],
    ]
    texts: list[list[str]] = []
    for sequence in range(n_sequences):
        theme = {0: SEA, 1: LAW}.get(sequence // 2 % 4, PLAIN)
        tokens = ["<s>"]
        while len(tokens) < length:
            if rng.random() < 0.2:
                tokens += phrases[rng.integers(len(phrases))]
            else:
                pool = COMMON if rng.random() < 0.45 else theme if rng.random() < 0.12 else PLAIN
                tokens.append(pool[rng.integers(len(pool))])
        if sequence % 40 == 7:
            tokens[20] = " zebra"
        texts.append(tokens[:length])
    positions: list[list[int]] = [[] for _ in range(DEAD_FEATURE + 1)]
    for sequence, tokens in enumerate(texts):
        for name, fires in PLANTED.items():
            positions[FEATURE[name]] += [sequence * length + p for p in range(1, length) if fires(tokens, p)]
    anywhere = np.flatnonzero(np.arange(n_sequences * length) % length > 0)
    positions[RANDOM_FEATURE] = sorted(rng.choice(anywhere, anywhere.size // 20, replace=False).tolist())
    positions[RARE_FEATURE] = [
        p for p, token in enumerate(token for text in texts for token in text) if token == " zebra"
    ]
    counts = [len(own) for own in positions]
    tokens = np.array([NUMBER[token] for text in texts for token in text], np.int32)
    kept = (np.arange(tokens.size) % length > 0).astype(np.uint8)
    flat = np.array([p for own in positions for p in own], np.uint32)
    document = np.where(kept, np.arange(tokens.size) // length // 2, -1).astype(np.int32)
    arrays: dict[str, NDArray[Any]] = {
        "tokens": tokens,
        "document": document,
        "kept": kept,
        "sequence_offsets": np.arange(n_sequences + 1, dtype=np.int64) * length,
        "feature_offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "feature_positions": flat,
        "feature_values": rng.uniform(0.4, 1.0, flat.size).astype(np.float16),
        "maximum": np.full(DEAD_FEATURE + 1, 2.0, np.float32),
    }
    titles = ["The sea", "The law", "Plain", "Plain too"]
    documents = [SimpleNamespace(id=f"{n:032x}", title=titles[n % 4]) for n in range(n_sequences // 2)]
    return PlantedIndex(arrays, documents, DEAD_FEATURE + 1)
