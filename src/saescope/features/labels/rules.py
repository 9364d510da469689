"""A label's claim as something that can be true or false of a position, and the search for the best one.

A rule is one or two groups of items. A group holds where one of its items is in its slot; two are joined by "and" ("New" at
the position and "York" next) or by "or". It is found greedily on the label half by balanced accuracy: a slot's items are
added one by one while each is worth its place, alone, within what another slot's group lets through, and beside it. Of rules
that do equally well the shorter wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saescope.features.labels.compiled import compiled
from saescope.features.labels.log_odds import N_CANDIDATES, N_SLOTS, candidates, items_at
from saescope.features.labels.windows import POSITIVE, Windows
from saescope.features.labels.words import CONTEXT_TOKENS, SLOT, SLOTS, Words
from saescope.kernels.threads import in_ranges

# Items of a group that stands alone, and of each group of a pair.
MOST_ITEMS = 5
_MOST_IN_PAIR = 3
_LEAST_GAIN = 0.01
_PER_ITEM = 0.004
_PER_PAIR = 0.02
_PER_ALTERNATIVE = 0.03
_PER_VAGUE = 0.05
_GOOD_ENOUGH = 0.985
_BITS = 64

_FAMILY_OF = {
    "word": 0,
    "exact": 0,
    "token": 0,
    "inside": 0,
    "kind": 0,
    "ending": 0,
    "piece": 0,
    "previous": 1,
    "previous two": 1,
    "near": 1,
    "next": 2,
    "start": 3,
    "context": 4,
}
# Slots of one family say the same in different words, so only those of two make a pair.
_FAMILY = np.array([_FAMILY_OF[name] for name in SLOTS])
_VAGUE = np.array([name in ("kind", "piece", "start", "ending") for name in SLOTS])
_IN_GROUP = np.array(
    [1 if name in ("start", "kind") else 2 if name in ("piece", "ending") else MOST_ITEMS for name in SLOTS]
)


@dataclass(frozen=True)
class Rules:
    """slot [features, 2] (-1: no group); either [features]: whether one group is enough; item [features, 2, MOST_ITEMS] (-1:
    none); weight, of the same shape: z; fit [features]: balanced accuracy where the rule was found."""

    slot: NDArray[np.int32]
    either: NDArray[np.bool_]
    item: NDArray[np.int32]
    weight: NDArray[np.float32]
    fit: NDArray[np.float32]

    def of(self, rows: NDArray[np.int64]) -> Rules:
        return Rules(*(getattr(self, f.name)[rows] for f in fields(Rules)))

    @staticmethod
    def joined(parts: Sequence[Rules]) -> Rules:
        """Those of several groups of features as one."""
        return Rules(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Rules)))


def arrays_of(words: Words) -> tuple[Any, ...]:
    """What the loops read of a text's words."""
    return (
        words.slots,
        words.run_of,
        words.run_start,
        words.run_item,
        words.region,
        words.space,
        words.content_of,
        words.content_item,
        words.content_end,
    )


@compiled
def _ones(bits):  # type: ignore[no-untyped-def]
    """How many bits of a word are set."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((bits * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled
def _balanced(mask, ends, counts):  # type: ignore[no-untyped-def]
    """Half the share of positives that are held, half the share of negatives that are not; both kinds weigh equally."""
    held = np.zeros(3, np.int64)
    for kind in range(3):
        for word in range(ends[kind], ends[kind + 1]):
            held[kind] += _ones(mask[word])
    rejected, kinds = 0.0, 0
    for kind in range(1, 3):
        if counts[kind] > 0:
            rejected += 1 - held[kind] / counts[kind]
            kinds += 1
    return held[0] / max(counts[0], 1) / 2 + (rejected / kinds if kinds > 0 else 1.0) / 2


@compiled
def _grow(bits, within, beside, most, ends, counts, chosen, mask):  # type: ignore[no-untyped-def]
    """Greedily ORs candidates of one slot, within one mask and beside another. Fills `chosen` (candidate numbers, -1) and
    `mask`; returns balanced accuracy less what the items cost."""
    chosen[:] = -1
    mask[:] = beside
    best = -1.0
    trial = np.empty_like(mask)
    for n in range(most):
        pick, reached = -1, best + (_LEAST_GAIN if n > 0 else 0.0)
        for candidate in range(bits.shape[0]):
            for word in range(mask.size):
                trial[word] = mask[word] | (bits[candidate, word] & within[word])
            found = _balanced(trial, ends, counts)
            if found > reached:
                pick, reached = candidate, found
        if pick < 0:
            break
        chosen[n] = pick
        best = reached
        for word in range(mask.size):
            mask[word] |= bits[pick, word] & within[word]
    n_chosen = 0
    for n in range(most):
        n_chosen += chosen[n] >= 0
    return best - _PER_ITEM * n_chosen


@compiled
def learn_features(start, stop, positions, counts, words, share, n_items, slots, either, chosen_items, weights, fit):  # type: ignore[no-untyped-def]
    """Fills slots, chosen_items, weights and fit (see `Rules`) for the rows start to stop."""
    tally = np.zeros((n_items, 3), np.int32)
    seen = np.full(n_items, -1, np.int64)
    place = np.full(n_items, -1, np.int32)
    items = np.empty((N_SLOTS, N_CANDIDATES), np.int32)
    z = np.empty((N_SLOTS, N_CANDIDATES), np.float32)
    found = np.empty(CONTEXT_TOKENS + 1, np.int32)
    most = positions.shape[2]
    per_kind = (most + _BITS - 1) // _BITS
    ends = np.arange(4) * per_kind
    bits = np.empty((N_SLOTS, N_CANDIDATES, 3 * per_kind), np.uint64)
    everything = np.full(3 * per_kind, np.uint64(0xFFFFFFFFFFFFFFFF))
    nothing = np.zeros(3 * per_kind, np.uint64)
    masks = np.zeros((N_SLOTS, 3 * per_kind), np.uint64)
    mask = np.zeros(3 * per_kind, np.uint64)
    first = np.empty((N_SLOTS, MOST_ITEMS), np.int64)
    second = np.empty(MOST_ITEMS, np.int64)
    n_first = np.empty(N_SLOTS, np.int64)
    for row in range(start, stop):
        candidates(positions[row], counts[row], words, share, tally, seen, items, z)
        bits[:] = 0
        for slot in range(N_SLOTS):
            n_first[slot] = 0
            for candidate in range(N_CANDIDATES):
                if items[slot, candidate] >= 0:
                    place[items[slot, candidate]] = candidate
                    n_first[slot] += 1
            if n_first[slot] == 0:
                continue
            for kind in range(3):
                for i in range(counts[row, kind]):
                    n_found = items_at(slot, np.int64(positions[row, kind, i]), words, found)
                    for j in range(n_found):
                        candidate = place[found[j]]
                        if candidate >= 0:
                            bits[slot, candidate, ends[kind] + i // _BITS] |= np.uint64(1) << np.uint64(i % _BITS)
            for candidate in range(n_first[slot]):
                place[items[slot, candidate]] = -1
        best = -1.0
        slots[row] = -1
        chosen_items[row] = -1
        weights[row] = 0
        for slot in range(N_SLOTS):
            first[slot] = -1
            if n_first[slot] == 0:
                continue
            own = bits[slot, : n_first[slot]]
            got = _grow(own, everything, nothing, _IN_GROUP[slot], ends, counts[row], first[slot], masks[slot])
            got -= _PER_VAGUE * _VAGUE[slot]
            if got > best + 1e-9:
                best = got
                slots[row, 0] = slot
        if best < 0:
            continue
        only = slots[row, 0]
        for n in range(MOST_ITEMS):
            if first[only, n] >= 0:
                chosen_items[row, 0, n] = items[only, first[only, n]]
                weights[row, 0, n] = z[only, first[only, n]]
        fit[row] = _balanced(masks[only], ends, counts[row])
        if best > _GOOD_ENOUGH:
            continue
        best += _PER_PAIR
        for one in range(N_SLOTS):
            # More items than a pair may show would be another rule than the one that was found.
            if n_first[one] == 0:
                continue
            if first[one, _MOST_IN_PAIR] >= 0:
                own = bits[one, : n_first[one]]
                _grow(own, everything, nothing, _MOST_IN_PAIR, ends, counts[row], first[one], masks[one])
            n_one = 0
            for n in range(_MOST_IN_PAIR):
                n_one += first[one, n] >= 0
            for other in range(N_SLOTS):
                if n_first[other] == 0 or _FAMILY[other] == _FAMILY[one]:
                    continue
                in_group = min(_MOST_IN_PAIR, _IN_GROUP[other])
                for joined in range(2):
                    # Beside another group only those that stand for something themselves.
                    if joined == 1 and (_VAGUE[one] or _VAGUE[other] or other < one):
                        continue
                    within, beside = (masks[one], nothing) if joined == 0 else (everything, masks[one])
                    own = bits[other, : n_first[other]]
                    got = _grow(own, within, beside, in_group, ends, counts[row], second, mask)
                    got -= _PER_ITEM * n_one + _PER_ALTERNATIVE * joined
                    if got > best + 1e-9:
                        best = got
                        either[row] = joined == 1
                        slots[row, 0] = one
                        slots[row, 1] = other
                        chosen_items[row] = -1
                        weights[row] = 0
                        for n in range(_MOST_IN_PAIR):
                            if first[one, n] >= 0:
                                chosen_items[row, 0, n] = items[one, first[one, n]]
                                weights[row, 0, n] = z[one, first[one, n]]
                            if second[n] >= 0:
                                chosen_items[row, 1, n] = items[other, second[n]]
                                weights[row, 1, n] = z[other, second[n]]
                        fit[row] = _balanced(mask, ends, counts[row])


@compiled
def held_features(start, stop, positions, counts, words, slots, either, chosen_items, held):  # type: ignore[no-untyped-def]
    """held [features, kind, most]: whether each row's rule holds at each of its positions."""
    found = np.empty(CONTEXT_TOKENS + 1, np.int32)
    for row in range(start, stop):
        for kind in range(3):
            for i in range(counts[row, kind]):
                p = np.int64(positions[row, kind, i])
                holds = slots[row, 0] >= 0 and not either[row]
                for group in range(2):
                    if slots[row, group] < 0 or holds == either[row]:
                        break
                    n_found = items_at(slots[row, group], p, words, found)
                    holds = False
                    for j in range(n_found):
                        for n in range(MOST_ITEMS):
                            holds = holds or (found[j] == chosen_items[row, group, n])
                held[row, kind, i] = holds


def learn(windows: Windows, words: Words) -> Rules:
    """The best rule of every feature, from the label half of its windows."""
    n = windows.counts.shape[0]
    rules = Rules(
        np.full((n, 2), -1, np.int32),
        np.zeros(n, np.bool_),
        np.full((n, 2, MOST_ITEMS), -1, np.int32),
        np.zeros((n, 2, MOST_ITEMS), np.float32),
        np.full(n, np.nan, np.float32),
    )
    fixed: tuple[Any, ...] = (
        *windows.of(0),
        arrays_of(words),
        words.share,
        words.n_items,
        rules.slot,
        rules.either,
        rules.item,
        rules.weight,
        rules.fit,
    )
    in_ranges(lambda start, stop: learn_features(start, stop, *fixed), n, 64)
    return rules


def held(rules: Rules, windows: Windows, words: Words) -> NDArray[np.bool_]:
    """Whether each feature's rule holds at each held-out position: [features, kind, most]."""
    out = np.zeros(windows.positions[:, 1].shape, np.bool_)
    fixed: tuple[Any, ...] = (
        windows.positions[:, 1],
        windows.counts[:, 1],
        arrays_of(words),
        rules.slot,
        rules.either,
        rules.item,
        out,
    )
    in_ranges(lambda start, stop: held_features(start, stop, *fixed), windows.counts.shape[0], 64)
    return out


def top_token_rules(windows: Windows, words: Words) -> Rules:
    """The control: a label of nothing but the commonest word-piece among the positives, whatever comes around it."""
    token = words.slots[:, SLOT["token"]]
    n = windows.counts.shape[0]
    item = np.full((n, 2, MOST_ITEMS), -1, np.int32)
    slot = np.full((n, 2), -1, np.int32)
    slot[:, 0] = SLOT["token"]
    for row in range(n):
        own = token[windows.positions[row, 0, POSITIVE, : windows.counts[row, 0, POSITIVE]]]
        if own.size:
            values, counts = np.unique(own, return_counts=True)
            item[row, 0, 0] = values[counts.argmax()]
    return Rules(slot, np.zeros(n, np.bool_), item, np.zeros(item.shape, np.float32), np.full(n, np.nan, np.float32))
