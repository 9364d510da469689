"""A binary task: examples of two labels, in groups that stay together, split into train and test by group."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

Level = Literal["text", "token"]
# One test fold of three; the same again inside the training part to choose the regularisation.
FOLDS = 3
# Per label. With fewer, chance alone makes any accuracy.
LEAST_TRAIN = 12
LEAST_TEST = 6


@dataclass(frozen=True)
class Candidates:
    """What a task is drawn from.

    name, source: of the task and of the text it is from. level: whether an example is a text or a token. example [n]: its
    number among the texts, or the rows, of the activations. label, group [n]. test [n]: a split that came with the data.
    facts: into the record.
    """

    name: str
    source: str
    level: Level
    example: Int[np.ndarray, "n"]
    label: Bool[np.ndarray, "n"]
    group: Int[np.ndarray, "n"]
    test: Bool[np.ndarray, "n"] | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Candidates split by group, both labels equally often on either side. fold [n]: of the training examples, the inner
    fold each is in; -1 in test."""

    name: str
    source: str
    level: Level
    example: Int[np.ndarray, "n"]
    label: Bool[np.ndarray, "n"]
    group: Int[np.ndarray, "n"]
    test: Bool[np.ndarray, "n"]
    fold: Int[np.ndarray, "n"]
    facts: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Its facts, as JSON."""
        sizes: dict[str, int] = {}
        for name, side in (("train", ~self.test), ("test", self.test)):
            sizes |= {f"n_{name}": int(side.sum()), f"groups_{name}": len(np.unique(self.group[side]))}
        return {"name": self.name, "source": self.source, "level": self.level, **sizes, **self.facts}


def generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one task, whatever other tasks there are."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def split(found: Candidates, *, seed: int, most: int) -> Task | str:
    """The task of at most `most` examples, or why there is none.

    Labels are balanced by leaving out examples at random. No group is on both sides, nor in two of the inner folds: a probe
    that has learnt its groups by heart has learnt nothing for the test.
    """
    rng = generator(seed, f"{found.source}/{found.name}")
    each = min(most // 2, int(found.label.sum()), int((~found.label).sum()))
    kept = sampled(found.label.astype(int), found.group, each, rng)
    label, group = found.label[kept], found.group[kept]
    if not len(label):
        return f"all {len(found.label)} examples have one label"
    if found.test is None:
        folds = _folds(label, group, rng)
        if folds is None:
            return f"its {len(np.unique(group))} groups are too few to split"
        test = folds == 0
    else:
        test = found.test[kept]
        leaked = np.isin(group, np.intersect1d(group[test], group[~test])) & ~test
        kept, label, group, test = kept[~leaked], label[~leaked], group[~leaked], test[~leaked]
    balanced = np.sort(np.concatenate([_balanced(label, side, rng) for side in (~test, test)]))
    label, group, test = label[balanced], group[balanced], test[balanced]
    for side, least, name in ((~test, LEAST_TRAIN, "training"), (test, LEAST_TEST, "test")):
        if (of_one := int(side.sum()) // 2) < least:
            return f"{of_one} {name} examples of a label, and {least} are needed"
    fold = np.full(len(label), -1)
    inner = _folds(label[~test], group[~test], rng)
    if inner is None:
        return "its training groups are too few to choose a regularisation on"
    fold[~test] = inner
    example = found.example[kept][balanced]
    return Task(found.name, found.source, found.level, example, label, group, test, fold, dict(found.facts))


def sampled(
    kind: Int[np.ndarray, "n"], group: Int[np.ndarray, "n"], each: int, rng: np.random.Generator
) -> Int[np.ndarray, "kept"]:
    """At most `each` examples of every kind, from groups in random order; ascending.

    Groups come in the same order for all kinds, so that pairs stay pairs, and give an even share at most before any gives
    more, so that one long document does not fill the task.
    """
    number = np.unique(group, return_inverse=True)[1]
    n_groups = int(number.max()) + 1 if len(number) else 0
    rank = rng.permutation(n_groups)[number]
    order = rng.permutation(len(kind))
    share = max(1, -(-each // max(1, n_groups)))
    chosen = [np.zeros(0, dtype=int)]
    for value in np.unique(kind):
        own = order[kind[order] == value]
        own = own[np.argsort(rank[own], kind="stable")]
        first = np.r_[True, np.diff(rank[own]) > 0]
        place = np.arange(len(own)) - np.maximum.accumulate(np.where(first, np.arange(len(own)), 0))
        chosen.append(own[np.argsort(place >= share, kind="stable")][:each])
    return np.sort(np.concatenate(chosen))


def _folds(
    label: Bool[np.ndarray, "n"], group: Int[np.ndarray, "n"], rng: np.random.Generator
) -> Int[np.ndarray, "n"] | None:
    """A fold for each example, by whole groups, with about the same labels in each; None where one would lack a label."""
    # Here, since it would make every measurement, probing or not, start more than half a second later.
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(group)) < FOLDS:
        return None
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    folds = np.zeros(len(label), dtype=int)
    try:
        for number, (_, inside) in enumerate(splitter.split(label, label, group)):
            folds[inside] = number
    except ValueError:
        return None
    for number in range(FOLDS):
        inside = label[folds == number]
        if not len(inside) or inside.all() or not inside.any():
            return None
    return folds


def _balanced(
    label: Bool[np.ndarray, "n"], side: Bool[np.ndarray, "n"], rng: np.random.Generator
) -> Int[np.ndarray, "kept"]:
    """As many of each label on this side, the surplus left out at random."""
    each = min(int((label & side).sum()), int((~label & side).sum()))
    return np.concatenate([rng.permutation(np.flatnonzero((label == value) & side))[:each] for value in (False, True)])
