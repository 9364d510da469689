"""The two halves of a text: one to find labels in, one to try them on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saescope.features.labels.source import LabelSource

# A long document is cut into sections that count as documents, as splits of text are elsewhere.
SECTION_TOKENS = 2048
LABEL, HELD_OUT = 0, 1


@dataclass(frozen=True)
class Halves:
    """half [positions]: LABEL, HELD_OUT, or -1 where there is no code. section [positions]: the document, or the part of
    at least 2,048 tokens of a longer one, that a position belongs to; a section is whole in one half."""

    half: NDArray[np.int8]
    section: NDArray[np.int32]


def halves_of(source: LabelSource, *, by: str = "section", seed: int = 0) -> Halves:
    """By a hash of the document's id and the section's number, so it depends on nothing else in the index.

    `by="document"` keeps long documents whole: then a label is tried on other documents only.
    """
    document = np.asarray(source.arrays["document"])
    n_tokens = np.bincount(document[document >= 0], minlength=len(source.documents))
    order = np.argsort(document, kind="stable")
    within = np.empty(document.size, np.int64)
    starts = np.concatenate([[0], np.cumsum(np.bincount(document + 1, minlength=n_tokens.size + 1))])
    within[order] = np.arange(document.size) - starts[document[order] + 1]
    n_sections = np.maximum(n_tokens // SECTION_TOKENS, 1) if by == "section" else np.ones_like(n_tokens)
    first = np.concatenate([[0], np.cumsum(n_sections)])
    own = np.minimum(within * n_sections[document] // np.maximum(n_tokens[document], 1), n_sections[document] - 1)
    section = np.where(document >= 0, first[document] + own, -1).astype(np.int32)
    side = np.array(
        [
            _side(f"{known.id}/{number}/{seed}")
            for known, count in zip(source.documents, n_sections.tolist(), strict=True)
            for number in range(count)
        ],
        np.int8,
    )
    coded = (np.asarray(source.arrays["kept"]) > 0) & (section >= 0)
    half = np.where(coded, side[section] if side.size else -1, -1).astype(np.int8)
    return Halves(half, section)


def _side(key: str) -> int:
    return hashlib.blake2b(key.encode(), digest_size=1).digest()[0] & 1
