"""Binary tasks out of a labelled set: one of two labels, or each of several against the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from saescope.evaluation.probing.labelled_sets import LabelledSet
from saescope.evaluation.probing.task import Candidates, generator, sampled
from saescope.lm import LanguageModel
from saescope.text import SequenceOptions, Sequencer
from saescope.text.encoding import TextEncoder

# Tokens of a text that are run, and classes of a set that become tasks: the most frequent ones.
_MOST_TOKENS = 128
_MOST_CLASSES = 8


@dataclass(frozen=True)
class LabelledTexts:
    """A set as it is run: token ids of the texts that were drawn, and which row of the set each is."""

    found: LabelledSet
    texts: list[list[int]]
    row: Int[np.ndarray, "texts"]
    classes: list[str]
    facts: dict[str, Any]


def labelled_texts(
    found: LabelledSet, lm: LanguageModel, options: SequenceOptions, *, most: int, seed: int
) -> LabelledTexts:
    """At most `most` texts, as many of each label as there are, tokenized as the coder's training text was."""
    counts = {name: found.labels.count(name) for name in found.classes}
    classes = sorted(sorted(counts, key=lambda name: -counts[name])[:_MOST_CLASSES])
    kind = np.array([classes.index(label) if label in classes else -1 for label in found.labels])
    known = np.flatnonzero(kind >= 0)
    each = most // len(classes)
    row = known[sampled(kind[known], groups_of(found)[known], each, generator(seed, found.name))]
    prefix = list(Sequencer([], lm.tokenizer, options).prefix)
    encoded = TextEncoder(lm.tokenizer).encode([found.texts[number] for number in row])
    lengths = np.array([len(text) for text in encoded])
    texts = [[*prefix, *text.tokens[:_MOST_TOKENS].tolist()] for text in encoded]
    some = np.array([bool(text) for text in texts])
    facts: dict[str, Any] = {"rows": len(found.texts), "drawn": len(row), "columns": found.columns}
    if found.skipped:
        facts["skipped"] = found.skipped
    if cut := int((lengths > _MOST_TOKENS).sum()):
        facts["cut_to_tokens"] = {"tokens": _MOST_TOKENS, "texts": cut}
    if left := len(counts) - len(classes):
        facts["rarer_classes_left_out"] = left
    return LabelledTexts(found, [text for text in texts if text], row[some], classes, facts)


def labelled_tasks(drawn: LabelledTexts, usable: Bool[np.ndarray, "texts"]) -> list[Candidates]:
    """`usable`: the texts with a row that counts."""
    found = drawn.found
    example = np.flatnonzero(usable)
    row = drawn.row[example]
    labels = np.array([found.labels[number] for number in row])
    group = groups_of(found)[row]
    test = None if found.test is None else np.array(found.test)[row]
    by = found.columns["group"] if found.groups is not None else "text"
    tasks = []
    for positive in drawn.classes[1:] if len(drawn.classes) == 2 else drawn.classes:
        name = found.name if len(drawn.classes) == 2 else f"{found.name}: {positive}"
        facts = {"label": positive, "grouped_by": by, "split": "by group" if test is None else "as the files have it"}
        tasks.append(Candidates(name, found.name, "text", example, labels == positive, group, test, facts))
    return tasks


def groups_of(found: LabelledSet) -> Int[np.ndarray, "rows"]:
    """By its column; without one, every text is a group of its own."""
    if found.groups is None:
        return np.arange(len(found.texts))
    return np.unique(np.array(found.groups, dtype=object).astype(str), return_inverse=True)[1].reshape(-1)
