"""What one sweep over feature-major entries tells: histograms, places, documents, examples, and who fires with whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from saescope.activations.documents import StoredDocument
from saescope.errors import FeatureIndexError
from saescope.features.index.arrays import read_array, write_array
from saescope.features.index.loops import NONE, choose_examples, coactive_range, sweep
from saescope.features.index.sources import sources_of
from saescope.kernels.threads import in_ranges

BINS = 64
# A factor of 2^(1/8) a bin, so that the histogram reaches down to 1/256 of a feature's maximum.
_BINS_AN_OCTAVE = 8
GROUPS = ("strongest", "0-20 %", "20-40 %", "40-60 %", "60-80 %", "80-100 %")
"""Groups of examples: the strongest, then fifths of a feature's firings from its strongest to its weakest."""
EXAMPLES = 16
PARTNERS = 16
TOP_DOCUMENTS = 5
# Firings of one feature that are looked at for who fires with it, and how often a partner must have been met there.
_MOST_FIRINGS = 8_192
_LEAST_TOGETHER = 3


def position_bins(context: int) -> tuple[list[int], list[str]]:
    """First position of each bin 0, 1, 2, 3-4, 5-8, 9-16, … up to `context`, and the bins' names."""
    first = [start for start in (0, 1, 2, *(2**k + 1 for k in range(1, 32))) if start < max(context, 1)]
    names = []
    for index, start in enumerate(first):
        end = first[index + 1] - 1 if index + 1 < len(first) else context - 1
        names.append(str(start) if end <= start else f"{start}-{end}")
    return first, names


def sweep_features(
    folder: Path, documents: Sequence[StoredDocument], told: Callable[[int, int], None]
) -> dict[str, list[str]]:
    """Write histogram, position profile, sources, documents and examples of every feature; returns the names of bins, sources
    and groups."""
    offsets = np.array(read_array(folder, "feature_offsets"))
    positions = read_array(folder, "feature_positions")
    bits = read_array(folder, "feature_values").view(np.uint16)
    sequence, document = read_array(folder, "sequence"), read_array(folder, "document")
    sequence_offsets = np.asarray(read_array(folder, "sequence_offsets"))
    tokens = read_array(folder, "tokens")
    if len(document) and int(document.max()) >= len(documents):
        raise FeatureIndexError(
            f"the index names document {int(document.max())}, its text has {len(documents)}; "
            f"remove {folder} and build it again"
        )
    d_sae = len(offsets) - 1
    context = int(np.diff(sequence_offsets).max())
    first_of_bin, bin_names = position_bins(context)
    bin_of_position = (np.searchsorted(first_of_bin, np.arange(context), side="right") - 1).astype(np.uint8)
    shares = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    source_names, source_of = sources_of(documents)
    histogram = np.zeros((d_sae, BINS), np.uint32)
    profile = np.zeros((d_sae, len(bin_names)), np.uint32)
    sources = np.zeros((d_sae, len(source_names)), np.uint32)
    document_count = np.zeros(d_sae, np.int32)
    top_documents = np.full((d_sae, TOP_DOCUMENTS), -1, np.int32)
    top_counts = np.zeros((d_sae, TOP_DOCUMENTS), np.int32)
    examples = np.full((d_sae, len(GROUPS), EXAMPLES), NONE, np.uint32)
    bounds = np.zeros((d_sae, len(GROUPS), 2), np.float32)

    def places(start: int, stop: int) -> None:
        sweep(
            start, stop, offsets, positions, bits, _bin_of_bits(shares), bin_of_position, sequence, sequence_offsets,
            document, source_of, max(1, len(documents)), histogram, profile, sources, document_count, top_documents,
            top_counts,
        )  # fmt: skip

    def chosen(start: int, stop: int) -> None:
        choose_examples(
            start, stop, offsets, positions, bits, sequence, sequence_offsets, tokens, shares, examples, bounds
        )

    pointers = torch.from_numpy(offsets)
    in_ranges(places, d_sae, pointers=pointers)
    told(1, 2)
    in_ranges(chosen, d_sae, pointers=pointers)
    told(2, 2)
    base = np.bincount(
        bin_of_position[
            (np.arange(len(sequence)) - sequence_offsets[sequence])[np.asarray(read_array(folder, "kept")) > 0]
        ],
        minlength=len(bin_names),
    )
    edges = np.exp2((np.arange(BINS + 1) - BINS) / _BINS_AN_OCTAVE).astype(np.float32)
    written = {
        "histogram": histogram,
        "histogram_edges": edges,
        "position_profile": profile,
        "position_base": base.astype(np.int64),
        "source_counts": sources,
        "document_count": document_count,
        "top_documents": top_documents,
        "top_document_counts": top_counts,
        "example_positions": examples,
        "example_bounds": bounds * np.asarray(read_array(folder, "maximum"))[:, None, None],
    }
    for name, values in written.items():
        write_array(folder, name, values)
    return {"position_bins": bin_names, "sources": source_names, "groups": list(GROUPS)}


def _bin_of_bits(shares: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        octaves = np.log2(np.clip(np.nan_to_num(shares), 1e-9, 1.0))
    bins = np.floor(octaves * _BINS_AN_OCTAVE).astype(np.int64) + BINS
    # The maximum itself belongs to the last bin.
    binned: np.ndarray = np.clip(bins, 0, BINS - 1).astype(np.uint8)
    return binned


def find_coactive(folder: Path, n_tokens: int) -> None:
    """Write the features that fire with each feature."""
    offsets = np.array(read_array(folder, "feature_offsets"))
    positions = read_array(folder, "feature_positions")
    count = np.asarray(read_array(folder, "count"))
    d_sae = len(count)
    token_offsets, token_features = read_array(folder, "token_offsets"), read_array(folder, "token_features")
    # Rows are met in no order that a cache could follow, so half the bytes are nearly half the time.
    if len(token_features) < 2**32:
        token_offsets = token_offsets.astype(np.uint32)
    if d_sae <= 2**16:
        token_features = token_features.astype(np.uint16)
    partner = np.full((d_sae, PARTNERS), -1, np.int32)
    together, lift, phi = (np.zeros((d_sae, PARTNERS), np.float32) for _ in range(3))

    def work(start: int, stop: int) -> None:
        coactive_range(
            start, stop, offsets, positions, token_offsets, token_features, count, n_tokens, _MOST_FIRINGS,
            _LEAST_TOGETHER, partner, together, lift, phi,
        )  # fmt: skip

    in_ranges(work, d_sae, pointers=torch.from_numpy(offsets))
    write_array(folder, "coactive", partner)
    write_array(folder, "coactive_count", np.rint(together).astype(np.int32))
    write_array(folder, "coactive_lift", lift)
    write_array(folder, "coactive_phi", phi)
