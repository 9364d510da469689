"""Labels without a language model: what tells where a feature fires from where it does not, and how far that goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saescope.errors import UsageError
from saescope.features.labels.halves import halves_of
from saescope.features.labels.rules import Rules, held, learn, top_token_rules
from saescope.features.labels.scores import Scores, balanced_accuracy, scores_of
from saescope.features.labels.source import LabelSource, features_to_label
from saescope.features.labels.table import CONTRASTIVE, Label, LabelTable, finite, new_version
from saescope.features.labels.windows import DRAWN, LEAST_IN_A_HALF, NONE, Text, Windows, draw
from saescope.features.labels.wording import continuing, parts_of, peaks_of, text_of, with_peaks
from saescope.features.labels.words import Words, reader, words_of
from saescope.progress import Progress, silent

# Features at once: drawing and scoring take some 120 KB for each.
_CHUNK = 512
_OUTPUTS = 5
SPLITS = ("section", "document")


def contrastive_labels(
    index: LabelSource,
    features: Iterable[int] | None = None,
    *,
    seed: int = 0,
    split: str = "section",
    progress: Progress | None = None,
) -> LabelTable:
    """A label for each of `features` (default: all that fire), found on one half of the text and tried on the other.

    A label's text states a rule (see `rules.Rules`); its score is the rule's balanced accuracy on held-out windows (see
    `windows.Windows`), None for a feature with fewer than ten firings in either half. Controls on the same windows: the label
    of another feature, drawn at random, and a label of the commonest token alone. Where a rule says little, "; most on" adds
    the words at the strongest firings, which are no part of what is scored. `split`: what is whole in one half, a "section" of
    at least 2,048 tokens of a long document, or a whole "document". A feature's label depends on the index and the seed only,
    not on which others are asked for; its random control is drawn from those, and one asked for alone has none.
    `progress(stage, done, total)` counts features.
    """
    wanted = features_to_label(index, features)
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    tell = progress or silent
    tell("words", 0, 1)
    words = words_of(index)
    halves = halves_of(index, by=split, seed=seed)
    text = Text.of(index, halves, words.region)
    tell("words", 1, 1)
    drawn: list[Windows] = []
    learned: list[Rules] = []
    for first in range(0, wanted.size, _CHUNK):
        windows = draw(index, wanted[first : first + _CHUNK], text, seed=seed)
        drawn.append(windows)
        learned.append(learn(windows, words))
        tell("labels", min(first + _CHUNK, wanted.size), wanted.size)
    rules = Rules.joined(learned)
    others = rules.of(_others(rules, seed)) if wanted.size > 1 else None
    continued = continuing(words)
    version = new_version(CONTRASTIVE)
    labels: list[Label] = []
    for first, windows in zip(range(0, wanted.size, _CHUNK), drawn, strict=True):
        rows = np.arange(first, min(first + _CHUNK, wanted.size))
        tried = scores_of(held(rules.of(rows), windows, words), windows, halves.section, seed=seed)
        tried_too = {"top_token": top_token_rules(windows, words)}
        if others is not None:
            tried_too["random_label"] = others.of(rows)
        controls = {
            name: balanced_accuracy(held(control, windows, words), windows.counts[:, 1])
            for name, control in tried_too.items()
        }
        labels += _labels(index, wanted[rows], windows, rules.of(rows), words, continued, tried, controls, version)
        tell("scores", len(labels), wanted.size)
    options = {
        "seed": seed,
        "split": split,
        "drawn": DRAWN,
        "least_in_a_half": LEAST_IN_A_HALF,
        "features": len(labels),
    }
    return LabelTable(tuple(labels), CONTRASTIVE, version, options)


def _others(rules: Rules, seed: int) -> NDArray[np.int64]:
    """Another row for every row, at random: a cycle through all of them in shuffled order."""
    order = np.random.default_rng(seed).permutation(rules.fit.size)
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    return other


def _labels(
    index: LabelSource,
    features: NDArray[np.int64],
    windows: Windows,
    rules: Rules,
    words: Words,
    continued: NDArray[np.float64],
    tried: Scores,
    controls: dict[str, NDArray[np.float64]],
    version: str,
) -> list[Label]:
    outputs = _outputs(index, features, words.anchor)
    labels = []
    for row, feature in enumerate(features.tolist()):
        groups = parts_of(rules, row, words, continued)
        either = bool(rules.either[row])
        score = finite(tried.value[row])
        strongest = windows.strongest[row]
        peaks = peaks_of(strongest[strongest != NONE], words)
        said = with_peaks(text_of(groups, either=either), groups, float(rules.fit[row]), peaks)
        parts: dict[str, Any] = {
            "groups": groups,
            "joined": "or" if either else "and",
            "fit": finite(round(float(rules.fit[row]), 4)),
            "windows": {
                side: windows.counts[row, number].tolist() for number, side in enumerate(("label", "held_out"))
            },
            "peaks": peaks,
            "outputs": outputs[row] if outputs else [],
        }
        low, high = finite(tried.low[row]), finite(tried.high[row])
        labels.append(
            Label(
                feature,
                said,
                score,
                None if score is None or low is None or high is None else (low, high),
                {} if score is None else {name: float(found[row]) for name, found in controls.items()},
                parts,
                CONTRASTIVE,
                version,
            )
        )
    return labels


def _outputs(index: LabelSource, features: NDArray[np.int64], anchor: int) -> list[list[str]]:
    """The output tokens that each feature promotes most, where the index has looked at the weights."""
    if not index.has("lens_top"):
        return []
    tops = np.asarray(index.arrays["lens_top"])[features, :_OUTPUTS]
    ids = np.unique(tops)
    read = reader(index, anchor)
    text = {int(token): read([int(token)]) for token in ids}
    return [[text[int(token)] for token in row if token >= 0] for row in tops]
