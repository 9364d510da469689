"""The form of every feature, from how it fires: on a token, a phrase, a place, a topic, before certain outputs, nearly always.

Each form is a test on measured properties, tried in the order of `FORMS`; the first that holds names the feature. Shares are
of activation, not of firings: a feature's weak firings are many and say little. Properties come from at most `SAMPLE` firings
of a feature, evenly spaced over the text; those that count occurrences from at most `COUNTED`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from saescope.kernels.compiling import compiled
from saescope.kernels.threads import in_ranges
from saescope.text import TokenText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMS = ("silent", "position", "dense", "token", "phrase", "output-promoting", "context", "other")

SAMPLE = 512
COUNTED = 32_768
TOP = 3
"""Commonest tokens (or bigrams) that count together: an idea has a few spellings."""
REACH = 8
"""Tokens to either side within which another firing is company."""
LONGEST_WIDTH = 64
"""Where a run of firings is no longer followed."""
GAP = 4
"""Firings at most this far apart belong to one run."""

FEWEST_FIRINGS = 10
"""Below this, shares are accidents: a live feature is then `other`."""
DENSE = 0.1
"""A feature that fires on more than one token in ten selects nothing that a person could name."""
POSITION_SHIFT = 0.5
"""Half of its firings would have to move for its places in the sequence to be spread as all tokens are."""
EXPLAINED = 0.4
"""Two fifths of its activation is where the token (or the pair with the one before) is enough to say that it fires; more is
rare, for the weak firings that every feature has are spread over much else."""
FIRES_MOSTLY = 0.5
"""A token is enough to say so when the feature fires at half of its other occurrences."""
FEWEST_OCCURRENCES = 5
"""Of a token rarer than that, nothing is said: a word of one document comes with everything else of that document."""
CONCENTRATED = 0.5
"""Half of its activation lies on so few tokens, or pairs, that they can be listed, though it fires on few of these."""
OUTPUT_SHARE = 0.25
"""A quarter of its activation is followed by one of the tokens that it promotes most."""
OUTPUT_LIFT = 3.0
"""And these follow it three times as often as they occur at all."""
OUTPUT_PEAK = 8.0
"""Or its first output token's logit is so far out (standard deviations over the vocabulary) that its effect is that token:
the largest of 50,000 normal numbers lies at 4.3."""
COMPANY = 0.4
"""So much more of its activation has another firing within `REACH` tokens than its density gives by chance."""

_NONE = -1


@dataclass(frozen=True)
class IndexedFirings:
    """Text and who fires where in it, as a feature index holds them; arrays may be memory-mapped.

    tokens int [n_positions]; document int [n_positions], -1 between documents; sequence_offsets int [n_sequences + 1].
    kept uint8 [n_positions]: 1 where a feature could fire. feature_offsets [d_sae + 1], feature_positions [nnz]
    (ascending within a feature), feature_values float16 [nnz] (any scale within a feature). position_profile [d_sae, bins] and
    position_base [bins]: counts of firings, and of kept positions, by place in the sequence. lens_top int [d_sae, k] and
    lens_peak [d_sae] where the features have output tokens.
    """

    tokens: NDArray[Any]
    document: NDArray[Any]
    kept: NDArray[Any]
    sequence_offsets: NDArray[Any]
    feature_offsets: NDArray[Any]
    feature_positions: NDArray[Any]
    feature_values: NDArray[Any]
    position_profile: NDArray[Any]
    position_base: NDArray[Any]
    lens_top: NDArray[Any] | None = None
    lens_peak: NDArray[Any] | None = None

    @property
    def d_sae(self) -> int:
        return len(self.feature_offsets) - 1


@dataclass(frozen=True)
class FiringProperties:
    """What forms are told by, float32 [d_sae] each; 0 for a silent feature.

    density: share of kept positions where it fires.
    token_share: of its activation, on its `TOP` commonest tokens (alike but for case and spaces).
    token_explained: of its activation, at tokens at half or more of whose other occurrences it fires; bigram_explained: at
    pairs of tokens; previous_explained: after tokens after which it fires so often.
    token_variety: effective number of different tokens it fires on, exp(entropy).
    previous_share: of its activation, after the `TOP` commonest previous tokens; bigram_share: on the `TOP` commonest pairs.
    position_shift: total variation distance between its places in the sequence and all kept positions'.
    output_share: of its activation, followed by one of its top output tokens; output_base: share of those tokens in the text.
    output_peak: its lens's peak, in standard deviations.
    company: of its activation, with another firing within `REACH` tokens of the same passage; company_by_chance: the same for
    firings strewn at random.
    width: mean number of tokens, weighed by activation, from first to last firing of the run (gaps of at most `GAP`).
    """

    count: NDArray[np.int64]
    density: NDArray[np.float32]
    token_share: NDArray[np.float32]
    token_explained: NDArray[np.float32]
    bigram_explained: NDArray[np.float32]
    previous_explained: NDArray[np.float32]
    token_variety: NDArray[np.float32]
    previous_share: NDArray[np.float32]
    bigram_share: NDArray[np.float32]
    position_shift: NDArray[np.float32]
    output_share: NDArray[np.float32]
    output_base: NDArray[np.float32]
    output_peak: NDArray[np.float32]
    company: NDArray[np.float32]
    company_by_chance: NDArray[np.float32]
    width: NDArray[np.float32]

    def forms(self) -> NDArray[np.uint8]:
        """[d_sae], indices into `FORMS`."""
        one_token = self.token_explained >= EXPLAINED
        sequential = np.maximum(self.bigram_explained, self.previous_explained) >= EXPLAINED
        sequential |= np.maximum(self.bigram_share, self.previous_share) >= CONCENTRATED
        concentrated = self.token_share >= CONCENTRATED
        followed = (self.output_share >= OUTPUT_SHARE) & (self.output_share >= OUTPUT_LIFT * self.output_base)
        enough = self.count >= FEWEST_FIRINGS
        tests = {
            "silent": self.count == 0,
            "position": enough & (self.position_shift >= POSITION_SHIFT),
            "dense": self.density >= DENSE,
            "token": enough & (one_token | (concentrated & ~sequential)),
            "phrase": enough & sequential,
            "output-promoting": enough & (followed | (self.output_peak >= OUTPUT_PEAK)),
            "context": enough & (self.company - self.company_by_chance >= COMPANY),
            "other": np.ones(len(self.count), bool),
        }
        first: NDArray[np.uint8] = np.argmax(np.stack([tests[form] for form in FORMS]), axis=0).astype(np.uint8)
        return first


def token_groups(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.int32]:
    """For each token id the lowest id with the same text but for case and surrounding spaces, [vocab]. Tokens of spaces only,
    and parts of characters, stand alone."""
    text = TokenText(tokenizer)
    first: dict[str, int] = {}
    groups = np.arange(len(tokenizer), dtype=np.int32)
    for token in range(len(groups)):
        core = text.pieces([token])[0].strip().casefold()
        if core and "\ufffd" not in core:
            groups[token] = first.setdefault(core, token)
    return groups


def firing_properties(
    firings: IndexedFirings, groups: NDArray[np.int32] | None = None, sample: int = SAMPLE
) -> FiringProperties:
    """Measured properties of every feature. groups: `token_groups`, or none where tokens are taken as they are."""
    d_sae = firings.d_sae
    tokens = np.ascontiguousarray(firings.tokens, np.int32)
    if groups is not None:
        # Ids beyond the tokenizer keep themselves.
        every = np.arange(max(len(groups), int(tokens.max(initial=0)) + 1), dtype=np.int32)
        every[: len(groups)] = groups
        grouped = every[tokens]
    else:
        grouped = tokens
    kept = np.asarray(firings.kept).astype(bool)
    vocabulary = int(tokens.max(initial=0)) + 1
    lens_top = np.zeros((d_sae, 0), np.int32) if firings.lens_top is None else np.ascontiguousarray(firings.lens_top)
    measured = np.zeros((d_sae, len(_MEASURED)), np.float32)
    offsets = np.array(firings.feature_offsets, np.int64)
    passage = passages(firings.document, firings.sequence_offsets)
    # Compiled code does not read float16; it looks its bits up in a table of all values.
    bits = firings.feature_values.view(np.uint16)
    table = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)

    def work(start: int, stop: int) -> None:
        _measure(
            start, stop, offsets, firings.feature_positions, bits, table, tokens, grouped, passage, lens_top,
            sample, measured,
        )  # fmt: skip

    in_ranges(work, d_sae, pointers=torch.from_numpy(offsets))
    before, pairs = _before(grouped, passage)
    entries = (offsets, firings.feature_positions, bits, table)
    explained = {
        "token_explained": _explained(entries, grouped, kept),
        "previous_explained": _explained(entries, before, kept),
        "bigram_explained": _explained(entries, pairs, kept),
    }
    count = np.diff(offsets)
    density = (count / max(int(kept.sum()), 1)).astype(np.float32)
    by_name = {name: measured[:, column] for column, name in enumerate(_MEASURED)}
    return FiringProperties(
        count=count,
        density=density,
        position_shift=_shift(firings.position_profile, firings.position_base),
        output_base=_share_of_text(lens_top, np.bincount(tokens[kept], minlength=vocabulary)),
        output_peak=np.zeros(d_sae, np.float32) if firings.lens_peak is None else np.asarray(firings.lens_peak),
        company_by_chance=np.where(count > 0, 1 - (1 - np.minimum(density, 1)) ** (2 * REACH), 0).astype(np.float32),
        **explained,
        **by_name,
    )


def passages(document: NDArray[Any], sequence_offsets: NDArray[Any]) -> NDArray[np.int32]:
    """A number for each position, equal at positions between which the text is of one sequence and document, without a gap.
    [n_positions]"""
    new = np.zeros(len(document), bool)
    starts = np.asarray(sequence_offsets)[:-1]
    new[starts[starts < len(document)]] = True
    new[1:] |= np.asarray(document)[1:] != np.asarray(document)[:-1]
    return np.cumsum(new, dtype=np.int32)


def _before(grouped: NDArray[np.int32], passage: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each position the token before it, and a number for the pair; -1 where its passage begins."""
    before = np.full(len(grouped), _NONE, np.int32)
    inside = np.flatnonzero(passage[1:] == passage[:-1]) + 1
    before[inside] = grouped[inside - 1]
    pairs = np.full(len(grouped), _NONE, np.int32)
    numbers = before[inside].astype(np.int64) << 32 | grouped[inside]
    pairs[inside] = np.unique(numbers, return_inverse=True)[1]
    return before, pairs


def _explained(
    entries: tuple[NDArray[Any], ...], keys: NDArray[np.int32], kept: NDArray[np.bool_]
) -> NDArray[np.float32]:
    offsets, positions, bits, table = entries
    occurrences = np.bincount(keys[kept & (keys >= 0)], minlength=int(keys.max(initial=0)) + 1)
    explained = np.zeros(len(offsets) - 1, np.float32)

    def work(start: int, stop: int) -> None:
        _explain(start, stop, offsets, positions, bits, table, keys, occurrences, explained)

    in_ranges(work, len(explained), pointers=torch.from_numpy(offsets))
    return explained


def _shift(profile: NDArray[Any], base: NDArray[Any]) -> NDArray[np.float32]:
    own = profile / np.maximum(profile.sum(1, keepdims=True), 1)
    everyone = base / max(base.sum(), 1)
    distance = np.abs(own - everyone).sum(1) / 2
    return np.where(profile.sum(1) > 0, distance, 0).astype(np.float32)


def _share_of_text(lens_top: NDArray[Any], occurrences: NDArray[np.int64]) -> NDArray[np.float32]:
    padded = np.append(occurrences, 0)
    # Tokens that the text never has are beyond its vocabulary.
    where = np.where(lens_top < len(occurrences), lens_top, len(occurrences))
    share: NDArray[np.float32] = (padded[where].sum(1) / max(int(occurrences.sum()), 1)).astype(np.float32)
    return share


_MEASURED = (
    "token_share",
    "token_variety",
    "previous_share",
    "bigram_share",
    "output_share",
    "company",
    "width",
)


@compiled
def _measure(
    start: int,
    stop: int,
    offsets: NDArray[np.int64],
    positions: NDArray[np.uint32],
    bits: NDArray[np.uint16],
    table: NDArray[np.float32],
    tokens: NDArray[np.int32],
    grouped: NDArray[np.int32],
    passage: NDArray[np.int32],
    lens_top: NDArray[np.int32],
    sample: int,
    out: NDArray[np.float32],
) -> None:
    """`_MEASURED` of a range of features, from evenly spaced firings."""
    keys, pairs, before = np.empty(sample, np.int64), np.empty(sample, np.int64), np.empty(sample, np.int64)
    weights = np.empty(sample, np.float64)
    n_positions = passage.shape[0]
    for feature in range(start, stop):
        first, end = offsets[feature], offsets[feature + 1]
        n = min(sample, end - first)
        if n == 0:
            continue
        total = 0.0
        output, company, width = 0.0, 0.0, 0.0
        for i in range(n):
            entry = first + i * (end - first) // n
            at = np.int64(positions[entry])
            value = np.float64(table[bits[entry]])
            weights[i] = value
            total += value
            keys[i] = grouped[at]
            inside = at > 0 and passage[at - 1] == passage[at]
            # What has nothing before it has a key of its own, or passages' beginnings would count as one token.
            before[i] = grouped[at - 1] if inside else _NONE - 1 - i
            pairs[i] = before[i] * 2**31 + keys[i] if inside else _NONE - 1 - i
            if at + 1 < n_positions and passage[at + 1] == passage[at]:
                for j in range(lens_top.shape[1]):
                    if lens_top[feature, j] == tokens[at + 1]:
                        output += value
                        break
            if _near(entry, entry - 1, first, end, positions, passage, REACH) or _near(
                entry, entry + 1, first, end, positions, passage, REACH
            ):
                company += value
            width += value * _width(entry, first, end, positions, passage)
        if total <= 0:
            continue
        share, variety = _commonest(keys, weights, n, total)
        out[feature, 0] = share
        out[feature, 1] = variety
        out[feature, 2] = _commonest(before, weights, n, total)[0]
        out[feature, 3] = _commonest(pairs, weights, n, total)[0]
        out[feature, 4] = output / total
        out[feature, 5] = company / total
        out[feature, 6] = width / total


@compiled
def _explain(
    start: int,
    stop: int,
    offsets: NDArray[np.int64],
    positions: NDArray[np.uint32],
    bits: NDArray[np.uint16],
    table: NDArray[np.float32],
    keys: NDArray[np.int32],
    occurrences: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """The share of each feature's activation at positions at half or more of whose key's other occurrences it fires."""
    times = np.zeros(occurrences.shape[0], np.int32)
    for feature in range(start, stop):
        first, n = offsets[feature], offsets[feature + 1] - offsets[feature]
        looked = min(n, COUNTED)
        for i in range(looked):
            key = keys[positions[first + i * n // looked]]
            if key >= 0:
                times[key] += 1
        total, explained = 0.0, 0.0
        for i in range(looked):
            entry = first + i * n // looked
            key, value = keys[positions[entry]], table[bits[entry]]
            total += value
            if key >= 0 and occurrences[key] >= FEWEST_OCCURRENCES:
                # What was looked at stands for all firings.
                fired = times[key] * (n / looked)
                if fired - 1 >= FIRES_MOSTLY * (occurrences[key] - 1):
                    explained += value
        for i in range(looked):
            key = keys[positions[first + i * n // looked]]
            if key >= 0:
                times[key] = 0
        if total > 0:
            out[feature] = explained / total


@compiled
def _near(
    entry: int,
    other: int,
    first: int,
    end: int,
    positions: NDArray[np.uint32],
    passage: NDArray[np.int32],
    reach: int,
) -> bool:
    """Whether a feature's other firing is at most `reach` tokens away in the same passage."""
    if other < first or other >= end:
        return False
    a, b = np.int64(positions[entry]), np.int64(positions[other])
    return bool(abs(a - b) <= reach and passage[a] == passage[b])


@compiled
def _width(entry: int, first: int, end: int, positions: NDArray[np.uint32], passage: NDArray[np.int32]) -> int:
    left = entry
    while np.int64(positions[entry]) - np.int64(positions[left]) < LONGEST_WIDTH and _near(
        left, left - 1, first, end, positions, passage, GAP
    ):
        left -= 1
    right = entry
    while np.int64(positions[right]) - np.int64(positions[left]) < LONGEST_WIDTH and _near(
        right, right + 1, first, end, positions, passage, GAP
    ):
        right += 1
    return min(LONGEST_WIDTH, int(positions[right]) - int(positions[left]) + 1)


@compiled
def _commonest(keys: NDArray[np.int64], weights: NDArray[np.float64], n: int, total: float) -> tuple[float, float]:
    """The share of the weight on the `TOP` heaviest keys, and exp(entropy)."""
    order = np.argsort(keys[:n], kind="mergesort")
    heaviest = np.zeros(TOP, np.float64)
    entropy, i = 0.0, 0
    while i < n:
        key, weight = keys[order[i]], 0.0
        while i < n and keys[order[i]] == key:
            weight += weights[order[i]]
            i += 1
        if weight > 0:
            entropy -= weight / total * np.log(weight / total)
        for j in range(TOP):
            if weight > heaviest[j]:
                for k in range(TOP - 1, j, -1):
                    heaviest[k] = heaviest[k - 1]
                heaviest[j] = weight
                break
    return heaviest.sum() / total, np.exp(entropy)
