"""The index's hot loops, compiled: the transpose, and what one sweep over feature-major entries tells of every feature.

Values travel as the 16 bits of a float16 share of the feature's maximum, in (0, 1]: as whole numbers these order as the
values do, and a table of 2^16 entries turns them into whatever a loop needs. Loops over features work on a range
[start, stop), so that threads share them out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saescope.kernels.compiling import compiled

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U32 = NDArray[np.uint32]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NONE = np.uint32(0xFFFFFFFF)
# Tokens before and after a peak that make two examples the same when they agree.
_BEFORE, _AFTER = 6, 3


@compiled
def add_entries(features: U32, values: F32, count: I64, total: F64, maximum: F32) -> None:
    """Count, sum and maximum of every feature, entry after entry, so that parts of any size give the same sums."""
    for i in range(features.shape[0]):
        feature = features[i]
        value = values[i]
        count[feature] += 1
        total[feature] += value
        if value > maximum[feature]:
            maximum[feature] = value


@compiled
def shares(features: U32, values: F32, maximum: F32, out: F32) -> None:
    """Each value as a share of its feature's maximum, never below the smallest float16, so that what fires stays above 0."""
    least = np.float32(6e-8)
    for i in range(features.shape[0]):
        share = values[i] / maximum[features[i]]
        out[i] = share if share > least else least


@compiled
def transpose_range(
    start: int, stop: int, token_offsets: I64, features: U32, bits: U16, offsets: I64, positions: U32, values: U16
) -> None:
    """The entries of features [start, stop), feature after feature, positions ascending; `positions` and `values` begin with
    the first of them."""
    cursor = offsets[start:stop] - offsets[start]
    for position in range(token_offsets.shape[0] - 1):
        for i in range(token_offsets[position], token_offsets[position + 1]):
            feature = features[i]
            if feature >= start and feature < stop:
                at = cursor[feature - start]
                positions[at] = position
                values[at] = bits[i]
                cursor[feature - start] = at + 1


@compiled
def sweep(
    start: int,
    stop: int,
    offsets: I64,
    positions: U32,
    bits: U16,
    bin_of_bits: U8,
    bin_of_position: U8,
    sequence: I32,
    sequence_offsets: I64,
    document: I32,
    source_of_document: I32,
    n_documents: int,
    histogram: U32,
    profile: U32,
    sources: U32,
    document_count: I32,
    top_documents: I32,
    top_counts: I32,
) -> None:
    """Histogram, position profile, sources and documents of the features [start, stop)."""
    seen = np.zeros(n_documents, np.int32)
    met = np.empty(n_documents, np.int32)
    n_top = top_documents.shape[1]
    last_bin = bin_of_position.shape[0] - 1
    for feature in range(start, stop):
        n_met = 0
        for i in range(offsets[feature], offsets[feature + 1]):
            position = positions[i]
            histogram[feature, bin_of_bits[bits[i]]] += 1
            within = position - sequence_offsets[sequence[position]]
            profile[feature, bin_of_position[min(within, last_bin)]] += 1
            own = document[position]
            if own >= 0:
                if seen[own] == 0:
                    met[n_met] = own
                    n_met += 1
                seen[own] += 1
        document_count[feature] = n_met
        for j in range(n_met):
            own = met[j]
            times = seen[own]
            seen[own] = 0
            sources[feature, source_of_document[own]] += times
            # Kept in order: more firings first, the earlier document among equals.
            rank = n_top
            while rank > 0 and (
                times > top_counts[feature, rank - 1]
                or (times == top_counts[feature, rank - 1] and own < top_documents[feature, rank - 1])
            ):
                rank -= 1
            for k in range(n_top - 1, rank, -1):
                top_counts[feature, k] = top_counts[feature, k - 1]
                top_documents[feature, k] = top_documents[feature, k - 1]
            if rank < n_top:
                top_counts[feature, rank] = times
                top_documents[feature, rank] = own


@compiled
def _context_hash(position: int, tokens: I32, first: int, end: int) -> np.uint64:
    value = np.uint64(1469598103934665603)
    for at in range(max(first, position - _BEFORE), min(end, position + _AFTER + 1)):
        value = (value ^ np.uint64(tokens[at] + 1)) * np.uint64(1099511628211)
    return value


@compiled
def _is_new(sequence: int, key: np.uint64, taken: I32, used: NDArray[np.uint64]) -> bool:
    """Whether an example is of a sequence that the group does not have, with tokens that no example has."""
    for other in taken:
        if other == sequence:
            return False
    for known in used:  # noqa: SIM110 - all() of a generator is not compiled
        if known == key:
            return False
    return True


@compiled
def strongest_first(bits: U16, order: I32, spare: I32) -> None:
    """`order` becomes the entries from the largest to the smallest, the earlier among equals: a radix sort by two bytes."""
    n = bits.shape[0]
    low, high = np.zeros(257, np.int64), np.zeros(257, np.int64)
    for i in range(n):
        low[256 - (bits[i] & 255)] += 1
        high[256 - (bits[i] >> 8)] += 1
    for key in range(256):
        low[key + 1] += low[key]
        high[key + 1] += high[key]
    for i in range(n):
        key = 255 - (bits[i] & 255)
        spare[low[key]] = i
        low[key] += 1
    for j in range(n):
        key = 255 - (bits[spare[j]] >> 8)
        order[high[key]] = spare[j]
        high[key] += 1


@compiled
def choose_examples(
    start: int,
    stop: int,
    offsets: I64,
    positions: U32,
    bits: U16,
    sequence: I32,
    sequence_offsets: I64,
    tokens: I32,
    share_of_bits: F32,
    examples: U32,
    bounds: F32,
) -> None:
    """Positions of examples of the features [start, stop), [feature, group, m]: group 0 the strongest, then equal quantiles of
    the firings from the strongest to the weakest, spread over each. One a sequence and group, and none whose tokens around
    the peak another has. `bounds`: lowest and highest value of each group, as shares of the maximum."""
    n_groups, room = examples.shape[1], examples.shape[2]
    used = np.empty(n_groups * room, np.uint64)
    taken, ranks = np.empty(room, np.int32), np.empty(room, np.int64)
    most = 0
    for feature in range(start, stop):
        most = max(most, offsets[feature + 1] - offsets[feature])
    order, spare = np.empty(most, np.int32), np.empty(most, np.int32)
    for feature in range(start, stop):
        first = offsets[feature]
        n = offsets[feature + 1] - first
        if n == 0:
            continue
        strongest_first(bits[first : first + n], order, spare)
        n_used = 0
        for group in range(n_groups):
            if group == 0:
                low, high = 0, n
                tries = min(n, 64 * room)
            else:
                low = (group - 1) * n // (n_groups - 1)
                high = group * n // (n_groups - 1)
                tries = min(high - low, 4 * room)
            n_taken = 0
            # A stretch of ranks for each example of a band, so that the places reach from its strongest to its weakest; a
            # second time over, stretches may give another for those that gave none.
            stretches = tries if group == 0 else min(room, tries)
            length = 1 if group == 0 else (tries + room - 1) // room
            for _ in range(1 if group == 0 else 2):
                for stretch in range(stretches):
                    for turn in range(length):
                        attempt = stretch * length + (length // 2 + turn) % length
                        if n_taken == room or attempt >= tries:
                            continue
                        rank = attempt if group == 0 else low + (2 * attempt + 1) * (high - low) // (2 * tries)
                        position = positions[first + order[rank]]
                        own = sequence[position]
                        key = _context_hash(position, tokens, sequence_offsets[own], sequence_offsets[own + 1])
                        if not _is_new(own, key, taken[:n_taken], used[:n_used]):
                            continue
                        at = n_taken
                        while at > 0 and ranks[at - 1] > rank:
                            ranks[at], taken[at] = ranks[at - 1], taken[at - 1]
                            examples[feature, group, at] = examples[feature, group, at - 1]
                            at -= 1
                        examples[feature, group, at], ranks[at], taken[at] = position, rank, own
                        used[n_used] = key
                        n_taken += 1
                        n_used += 1
                        break
            if group == 0 and n_taken:
                # The group reaches as low as its weakest member.
                high = 0
                weakest = examples[feature, 0, n_taken - 1]
                while positions[first + order[high]] != weakest:
                    high += 1
                high += 1
            if high > low:
                bounds[feature, group, 0] = share_of_bits[bits[first + order[high - 1]]]
                bounds[feature, group, 1] = share_of_bits[bits[first + order[low]]]


@compiled
def coactive_range(
    start: int,
    stop: int,
    offsets: I64,
    positions: U32,
    token_offsets: I64 | U32,
    token_features: U32 | U16,
    count: I64,
    n_tokens: int,
    most: int,
    least: int,
    partner: I32,
    together: F32,
    lift: F32,
    phi: F32,
) -> None:
    """The features that fire with those of [start, stop) at the same tokens, by phi: the correlation of firing with firing.

    Counted over at most `most` evenly spaced firings of a feature and scaled up; partners met fewer than `least` times are left
    out. lift = P(both) / (P(one) P(other)).
    """
    n_features = count.shape[0]
    n_kept = partner.shape[1]
    times = np.zeros(n_features, np.int32)
    met, met_times = np.empty(n_features, np.int32), np.empty(n_features, np.int32)
    for feature in range(start, stop):
        first = offsets[feature]
        n = offsets[feature + 1] - first
        looked = min(n, most)
        n_entries = np.int64(0)
        for j in range(looked):
            position = positions[first + (j if looked == n else j * n // looked)]
            begin, end = np.int64(token_offsets[position]), np.int64(token_offsets[position + 1])
            n_entries += end - begin
            for i in range(begin, end):
                times[np.int64(token_features[i])] += 1
        n_met = 0
        if 8 * n_entries > n_features:
            for each in range(n_features):
                if times[each] >= least:
                    met[n_met], met_times[n_met] = each, times[each]
                    n_met += 1
            times[:] = 0
        else:
            # A look at every feature would cost more than a second one at these few entries.
            for j in range(looked):
                position = positions[first + (j if looked == n else j * n // looked)]
                for i in range(np.int64(token_offsets[position]), np.int64(token_offsets[position + 1])):
                    here = np.int64(token_features[i])
                    if times[here] >= least:
                        met[n_met], met_times[n_met] = here, times[here]
                        n_met += 1
                    times[here] = 0
        own = float(n)
        for j in range(n_met):
            other, seen = met[j], met_times[j]
            if other == feature:
                continue
            both = min(seen * own / looked, float(count[other]))
            their = float(count[other])
            spread = np.sqrt(own * their * max(n_tokens - own, 0.0) * max(n_tokens - their, 0.0))
            correlation = np.float32((n_tokens * both - own * their) / spread) if spread > 0 else np.float32(0)
            if correlation <= 0:
                continue
            rank = n_kept
            while rank > 0 and (
                correlation > phi[feature, rank - 1]
                or (correlation == phi[feature, rank - 1] and other < partner[feature, rank - 1])
            ):
                rank -= 1
            if rank == n_kept:
                continue
            for k in range(n_kept - 1, rank, -1):
                partner[feature, k] = partner[feature, k - 1]
                together[feature, k] = together[feature, k - 1]
                lift[feature, k] = lift[feature, k - 1]
                phi[feature, k] = phi[feature, k - 1]
            partner[feature, rank] = other
            together[feature, rank] = both
            lift[feature, rank] = n_tokens * both / (own * their)
            phi[feature, rank] = correlation
