"""From parts to the arrays: tokens and codes token after token, then, by a counting transpose, feature after feature."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from saescope.errors import FeatureIndexError
from saescope.features.index.arrays import new_array, read_array, write_array
from saescope.features.index.loops import add_entries, shares, transpose_range
from saescope.features.index.manifest import Counts
from saescope.features.index.parts import Part, read_part
from saescope.kernels.threads import in_ranges

# Bytes of one entry of a transposed range: its position and its value.
_ENTRY = 6


def assemble(folder: Path, n_parts: int, fingerprint: str, d_sae: int, told: Callable[[int, int], None]) -> Counts:
    """Put the parts together into token-major arrays; count, total and maximum of every feature come with them."""
    count = np.zeros(d_sae, np.int64)
    total = np.zeros(d_sae, np.float64)
    maximum = np.zeros(d_sae, np.float32)
    counts = Counts()
    for number in range(n_parts):
        part = _part(folder, number, fingerprint)
        _check(part, d_sae, number)
        counts.positions += len(part.tokens)
        counts.sequences += len(part.lengths)
        counts.nonzeros += len(part.features)
        counts.tokens += int(part.kept.sum())
        counts.negative += part.negative
        add_entries(part.features, part.values, count, total, maximum)
        told(number, 2 * n_parts)
    if counts.positions >= 2**32 - 1:
        raise FeatureIndexError(f"{counts.positions:,} positions are more than an index counts (2^32); index less text")
    if not counts.nonzeros:
        raise FeatureIndexError("no feature fires on this text, so there is nothing to index; give other text")
    counts.live = int((count > 0).sum())
    for name, values in (("count", count), ("total", total), ("maximum", maximum)):
        write_array(folder, name, values)
    with ExitStack() as stack:

        def new(name: str, n: int, dtype: type) -> np.ndarray:
            return stack.enter_context(new_array(folder, name, (n,), dtype))

        tokens, document = new("tokens", counts.positions, np.int32), new("document", counts.positions, np.int32)
        kept, sequence = new("kept", counts.positions, np.uint8), new("sequence", counts.positions, np.int32)
        sequence_offsets = new("sequence_offsets", counts.sequences + 1, np.int64)
        token_offsets = new("token_offsets", counts.positions + 1, np.int64)
        features = new("token_features", counts.nonzeros, np.uint32)
        values = new("token_values", counts.nonzeros, np.float16)
        sequence_offsets[0] = token_offsets[0] = 0
        position = row = entry = 0
        for number in range(n_parts):
            part = _part(folder, number, fingerprint)
            here = slice(position, position + len(part.tokens))
            tokens[here], document[here], kept[here] = part.tokens, part.document, part.kept
            sequence[here] = row + np.repeat(np.arange(len(part.lengths), dtype=np.int32), part.lengths)
            sequence_offsets[row + 1 : row + 1 + len(part.lengths)] = position + np.cumsum(part.lengths)
            token_offsets[position + 1 : here.stop + 1] = entry + np.cumsum(part.counts, dtype=np.int64)
            own = np.empty(len(part.features), np.float32)
            shares(part.features, part.values, maximum, own)
            features[entry : entry + len(part.features)] = part.features
            values[entry : entry + len(part.features)] = own
            position, row, entry = here.stop, row + len(part.lengths), entry + len(part.features)
            told(n_parts + number, 2 * n_parts)
    return counts


def _part(folder: Path, number: int, fingerprint: str) -> Part:
    part = read_part(folder, number, fingerprint)
    if part is None:
        raise FeatureIndexError(f"part {number} of {folder} is missing or damaged; remove {folder} and build it again")
    return part


def _check(part: Part, d_sae: int, number: int) -> None:
    if len(part.features) and int(part.features.max()) >= d_sae:
        raise FeatureIndexError(
            f"part {number} names a feature beyond {d_sae}; it is damaged, remove the index and build it again"
        )


def transpose(folder: Path, memory: int, told: Callable[[int, int], None]) -> None:
    """Feature-major arrays from the token-major ones, in as many ranges of features as `memory` bytes make necessary."""
    count = read_array(folder, "count")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
    token_offsets = np.asarray(read_array(folder, "token_offsets"))
    features, bits = read_array(folder, "token_features"), read_array(folder, "token_values").view(np.uint16)
    nonzeros = int(offsets[-1])
    with (
        new_array(folder, "feature_positions", (nonzeros,), np.uint32) as positions,
        new_array(folder, "feature_values", (nonzeros,), np.float16) as values,
    ):
        for start, stop in _ranges(offsets, max(1, memory // _ENTRY)):
            first, last = int(offsets[start]), int(offsets[stop])
            here_positions = np.empty(last - first, np.uint32)
            here_values = np.empty(last - first, np.uint16)

            def work(low: int, high: int, start: int = start, first: int = first) -> None:
                begin, end = int(offsets[start + low]) - first, int(offsets[start + high]) - first
                transpose_range(
                    start + low,
                    start + high,
                    token_offsets,
                    features,
                    bits,
                    offsets,
                    here_positions[begin:end],  # noqa: B023 - run before the next range begins
                    here_values[begin:end],  # noqa: B023
                )

            in_ranges(work, stop - start)
            positions[first:last] = here_positions
            values[first:last] = here_values.view(np.float16)
            told(last, nonzeros)
    write_array(folder, "feature_offsets", offsets)


def _ranges(offsets: np.ndarray, entries: int) -> list[tuple[int, int]]:
    """Consecutive features that have at most `entries` entries together, or one that has more by itself."""
    found, start, d_sae = [], 0, len(offsets) - 1
    while start < d_sae:
        stop = int(np.searchsorted(offsets, offsets[start] + entries, side="right")) - 1
        stop = min(max(stop, start + 1), d_sae)
        found.append((start, stop))
        start = stop
    return found
