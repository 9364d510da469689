"""Which items of each slot tell a feature's positives from its negatives.

Weighted log-odds with an informative prior (Monroe, Colaresi and Quinn 2008, "Fightin' Words", eqs. 16, 20 and 22): for item w
that y⁺ of n⁺ positives and y⁻ of n⁻ negatives have, with prior counts α_w out of α₀,

    δ_w = log (y⁺+α_w)/(n⁺+α₀-y⁺-α_w) - log (y⁻+α_w)/(n⁻+α₀-y⁻-α_w),   z_w = δ_w / √(1/(y⁺+α_w) + 1/(y⁻+α_w))

The prior is the item's share of the whole text. Half a count is added to it: with next to none the variance of rare words
is so large that names, which are the best labels, would come last.
"""

from __future__ import annotations

import numpy as np

from saescope.features.labels.compiled import compiled
from saescope.features.labels.windows import NEIGHBOUR, POSITIVE, RANDOM
from saescope.features.labels.words import CONTEXT_TOKENS, N_SINGLE, NEAR_WORDS, SLOT, SLOTS

# Candidates a slot.
N_CANDIDATES = 12
N_SLOTS = len(SLOTS)
_NEAR = SLOT["near"]
_CONTEXT = SLOT["context"]
PRIOR = 20.0
LEAST_Z = 1.0
LEAST_SHARE = 0.02


@compiled
def log_odds(y_positive, n_positive, y_negative, n_negative, prior, total):  # type: ignore[no-untyped-def]
    """z_w of the module's formula; `prior` is α_w, `total` α₀."""
    inside = np.log((y_positive + prior) / max(n_positive + total - y_positive - prior, 1e-9))
    outside = np.log((y_negative + prior) / max(n_negative + total - y_negative - prior, 1e-9))
    return (inside - outside) / np.sqrt(1 / (y_positive + prior) + 1 / (y_negative + prior))


@compiled
def items_at(slot, p, words, found):  # type: ignore[no-untyped-def]
    """Puts the items that `slot` has at position p into `found` and returns how many; a bag's may repeat."""
    slots, run_of, run_start, run_item, region, space, content_of, content_item, content_end = words
    if slot < N_SINGLE:
        found[0] = slots[p, slot]
        return 1 if found[0] >= 0 else 0
    n = 0
    own = run_of[p]
    if slot == _NEAR:
        for run in range(own - 1, -1, -1):
            if n == NEAR_WORDS or region[run_start[run]] != region[p]:
                break
            if run_item[run] != space:
                found[n] = run_item[run]
                n += 1
        return n
    for content in range(content_of[own], -1, -1):
        end = content_end[content]
        if end <= p - CONTEXT_TOKENS or region[end - 1] != region[p]:
            break
        found[n] = content_item[content]
        n += 1
    return n


@compiled
def candidates(positions, counts, words, share, tally, seen, items, weights):  # type: ignore[no-untyped-def]
    """The best items of every slot for one feature: items [slots, candidates] (-1: none) and z in `weights`, best first.

    positions [kind, most], counts [kind]. An item counts against all negatives and against neighbours alone (what tells
    where a token fires from where it does not), by the better of the two. tally [items, 3] must be 0 and is left so; seen
    [items] is scratch.
    """
    touched = np.empty(positions.shape[1] * 3 * CONTEXT_TOKENS, np.int32)
    found = np.empty(CONTEXT_TOKENS + 1, np.int32)
    n_positive, n_random, n_near = counts[POSITIVE], counts[RANDOM], counts[NEIGHBOUR]
    # What fewer have cannot be worth its place in a label.
    least = max(2 if n_positive >= 6 else 1, np.int64(np.ceil(LEAST_SHARE * n_positive)))
    negatives = max(n_random + n_near, 1)
    for slot in range(N_SLOTS):
        n_touched = 0
        for kind in range(3):
            for i in range(counts[kind]):
                p = np.int64(positions[kind, i])
                n_found = items_at(slot, p, words, found)
                for j in range(n_found):
                    item = found[j]
                    if slot >= N_SINGLE:
                        if seen[item] == p:
                            continue
                        seen[item] = p
                    if tally[item, 0] + tally[item, 1] + tally[item, 2] == 0:
                        touched[n_touched] = item
                        n_touched += 1
                    tally[item, kind] += 1
                for j in range(n_found):
                    seen[found[j]] = -1
        items[slot] = -1
        weights[slot] = 0
        n_kept = 0
        for i in range(n_touched):
            item = touched[i]
            y = tally[item, POSITIVE]
            near = tally[item, NEIGHBOUR]
            common = y * negatives <= (near + tally[item, RANDOM]) * n_positive
            if y >= least and not (common and y * n_near <= near * n_positive):
                prior = 0.5 + PRIOR * share[slot, item]
                total = PRIOR + 1
                z = log_odds(y, n_positive, near + tally[item, RANDOM], n_random + n_near, prior, total)
                if n_near > 0:
                    z = max(z, log_odds(y, n_positive, near, n_near, prior, total))
                if z > LEAST_Z and (n_kept < N_CANDIDATES or z > weights[slot, n_kept - 1]):
                    at = min(n_kept, N_CANDIDATES - 1)
                    while at > 0 and weights[slot, at - 1] < z:
                        weights[slot, at], items[slot, at] = weights[slot, at - 1], items[slot, at - 1]
                        at -= 1
                    weights[slot, at], items[slot, at] = z, item
                    n_kept = min(n_kept + 1, N_CANDIDATES)
            tally[item, 0] = 0
            tally[item, 1] = 0
            tally[item, 2] = 0
