"""An index opened for reading: memory-mapped arrays, and what a page or a script asks of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt32
from numpy.typing import NDArray

from saescope.activations.documents import DOCUMENTS, decode_documents
from saescope.errors import FeatureIndexError, StoreError, UsageError
from saescope.features.contexts import Context
from saescope.features.families import Splits
from saescope.features.index.arrays import ARRAYS, array_path, read_array
from saescope.features.index.loops import NONE
from saescope.features.index.manifest import MANIFEST, IndexManifest, check_sizes, verify
from saescope.features.index.places import TextPlaces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from saescope.activations import StoredDocument
    from saescope.text import TokenText

TOKENIZER = "tokenizer"


class Firings(NamedTuple):
    """Where a feature fires: global positions, ascending, and its activation at each."""

    positions: UInt32[np.ndarray, "n"]
    values: Float32[np.ndarray, "n"]


class FiringFeatures(NamedTuple):
    """What fires at a position, strongest first."""

    features: UInt32[np.ndarray, "k"]
    values: Float32[np.ndarray, "k"]


@dataclass(frozen=True)
class ExampleGroup:
    """Positions of examples whose activations lie in [low, high], strongest first."""

    name: str
    low: float
    high: float
    positions: list[int]


class Arrays:
    """The arrays by name, each mapped when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """FeatureIndexError, naming the file, where it is missing or damaged."""
        if name not in self._read:
            self._read[name] = read_array(self._folder, name)
        return self._read[name]

    def __contains__(self, name: str) -> bool:
        return array_path(self._folder, name).exists()


class FeatureIndex:
    """A feature index on disk. A position is an index into the tokens of all sequences, laid end to end."""

    def __init__(self, folder: Path, manifest: IndexManifest) -> None:
        self.path = folder
        self.manifest = manifest
        self.arrays = Arrays(folder)
        self.d_sae = manifest.coder.d_sae
        self.n_positions = manifest.counts.positions
        self.n_tokens = manifest.counts.tokens
        self.nnz = manifest.counts.nonzeros

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, incomplete: bool = False) -> FeatureIndex:
        """FeatureIndexError where there is no index, it is unfinished, or a file is missing, truncated or of another length."""
        folder = Path(path)
        manifest = IndexManifest.read(folder)
        if manifest is None:
            raise FeatureIndexError(
                f"no feature index at {path}: it has no {MANIFEST} of one; make it with saescope index"
            )
        if not incomplete:
            if not manifest.complete:
                raise FeatureIndexError(
                    f"the index {path} is incomplete; finish it with the saescope index command that began it"
                )
            check_sizes(folder, manifest)
        index = cls(folder, manifest)
        if len(index.arrays["feature_offsets"]) != index.d_sae + 1:
            raise FeatureIndexError(
                f"damaged {ARRAYS}/feature_offsets.npy in {path}; remove the index and build it again"
            )
        return index

    def verify(self) -> None:
        """Hash every file. FeatureIndexError names the first that is not as it was written."""
        verify(self.path, self.manifest)

    def __repr__(self) -> str:
        return f"FeatureIndex({str(self.path)!r}, {self.d_sae:,} features, {self.n_tokens:,} tokens)"

    def has(self, name: str) -> bool:
        """Whether there is an array of that name."""
        return name in self.arrays

    def check_feature(self, feature: int) -> int:
        """The feature's number; UsageError where there is none."""
        if not 0 <= feature < self.d_sae:
            raise UsageError(f"there is no feature {feature}: {self.path} has {self.d_sae:,}, from 0 on")
        return feature

    def check_position(self, position: int) -> int:
        """The position; UsageError where there is none."""
        if not 0 <= position < self.n_positions:
            raise UsageError(f"there is no position {position}: {self.path} has {self.n_positions:,}, from 0 on")
        return position

    @cached_property
    def documents(self) -> list[StoredDocument]:
        """Every document of the text, in the order in which `arrays["document"]` numbers them."""
        try:
            return decode_documents((self.path / DOCUMENTS).read_bytes(), str(self.path))
        except OSError as error:
            raise FeatureIndexError(f"cannot read {self.path / DOCUMENTS}: {error.strerror or error}") from None
        except StoreError:
            raise FeatureIndexError(f"damaged {self.path / DOCUMENTS}; remove the index and build it again") from None

    @cached_property
    def places(self) -> TextPlaces:
        """Where each document's text lies: `places[document].positions(0, 100)` are its first hundred tokens."""
        return TextPlaces.of(self.arrays["document"], self.arrays["sequence_offsets"], len(self.documents))

    @cached_property
    def count(self) -> NDArray[np.int64]:
        """Tokens on which each feature fires."""
        return np.asarray(self.arrays["count"])

    @cached_property
    def maximum(self) -> Float32[np.ndarray, "d_sae"]:
        """Each feature's largest activation, 0 where it never fires."""
        return np.asarray(self.arrays["maximum"])

    @cached_property
    def density(self) -> Float64[np.ndarray, "d_sae"]:
        """The share of tokens on which each feature fires."""
        share: NDArray[np.float64] = self.count / max(1, self.n_tokens)
        return share

    @cached_property
    def mean(self) -> Float64[np.ndarray, "d_sae"]:
        """Each feature's mean activation over the tokens on which it fires."""
        mean: NDArray[np.float64] = self.arrays["total"] / np.maximum(self.count, 1)
        return mean

    def firings(self, feature: int) -> Firings:
        """All positions at which a feature fires; UsageError where there is no such feature."""
        offsets = self.arrays["feature_offsets"]
        piece = slice(int(offsets[self.check_feature(feature)]), int(offsets[feature + 1]))
        shares = self.arrays["feature_values"][piece].astype(np.float32)
        return Firings(np.asarray(self.arrays["feature_positions"][piece]), shares * self.maximum[feature])

    def at(self, position: int) -> FiringFeatures:
        """The features that fire at a position; UsageError where there is no such position."""
        offsets = self.arrays["token_offsets"]
        piece = slice(int(offsets[self.check_position(position)]), int(offsets[position + 1]))
        features = np.asarray(self.arrays["token_features"][piece])
        values = self.arrays["token_values"][piece].astype(np.float32) * self.maximum[features]
        order = np.argsort(-values, kind="stable")
        return FiringFeatures(features[order], values[order])

    def reach(self, position: int) -> tuple[int, int]:
        """First position, and the one after the last, of the stretch of one document in one sequence around a position."""
        sequence = int(self.arrays["sequence"][self.check_position(position)])
        first, end = (int(bound) for bound in self.arrays["sequence_offsets"][sequence : sequence + 2])
        document = np.asarray(self.arrays["document"][first:end])
        other = np.flatnonzero(document != document[position - first])
        before, after = other[other < position - first], other[other > position - first]
        start = first + int(before[-1]) + 1 if len(before) else first
        return start, first + int(after[0]) if len(after) else end

    def context(self, feature: int, position: int, before: int = 16, after: int = 16) -> Context:
        """The tokens around a position, never of another document or sequence, with the feature's activation at each. The peak
        is `position`, also where the feature is silent there."""
        first, end = self.reach(position)
        start, stop = max(first, position - before), min(end, position + after + 1)
        activations = np.zeros(stop - start, np.float32)
        offsets = self.arrays["feature_offsets"]
        low, high = int(offsets[self.check_feature(feature)]), int(offsets[feature + 1])
        own = self.arrays["feature_positions"][low:high]
        inside = slice(*(low + int(bound) for bound in np.searchsorted(own, np.array([start, stop], own.dtype))))
        activations[self.arrays["feature_positions"][inside].astype(np.int64) - start] = (
            self.arrays["feature_values"][inside].astype(np.float32) * self.maximum[feature]
        )
        sequence = int(self.arrays["sequence"][position])
        return Context(
            self.arrays["tokens"][start:stop].tolist(),
            activations.tolist(),
            position - start,
            int(self.arrays["document"][position]),
            sequence,
            position - int(self.arrays["sequence_offsets"][sequence]),
        )

    def examples(self, feature: int) -> list[ExampleGroup]:
        """A feature's examples: the strongest, then spread over fifths of its firings. Groups without any are left out."""
        chosen = self.arrays["example_positions"][self.check_feature(feature)]
        bounds = self.arrays["example_bounds"][feature]
        groups = []
        for name, positions, (low, high) in zip(self.manifest.names["groups"], chosen, bounds.tolist(), strict=True):
            found = positions[positions != NONE].tolist()
            if found:
                groups.append(ExampleGroup(name, low, high, found))
        return groups

    def top_tokens(self, feature: int, n: int = 8) -> list[int]:
        """The tokens at the peaks of its strongest examples, most frequent first."""
        strongest = self.arrays["example_positions"][self.check_feature(feature), 0]
        tokens, first, times = np.unique(
            self.arrays["tokens"][strongest[strongest != NONE]], return_index=True, return_counts=True
        )
        order = np.lexsort((first, -times))
        found: list[int] = tokens[order][:n].tolist()
        return found

    @cached_property
    def splits(self) -> Splits:
        """Of a Matryoshka coder: which finer features a coarse one splits into. No pairs where the index has none."""
        names = ("coarse", "fine", "share", "cosine")
        if not all(self.has(f"split_{name}") for name in names):
            return Splits.none()
        return Splits(*(np.asarray(self.arrays[f"split_{name}"]) for name in names))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(self.path / TOKENIZER))
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise FeatureIndexError(
                f"damaged {self.path / TOKENIZER} ({reason}); remove the index and build it again"
            ) from None
        return tokenizer

    @cached_property
    def token_text(self) -> TokenText:
        from saescope.text.token_text import TokenText

        return TokenText(self.tokenizer)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token of a sequence; joined, they are the tokenizer's own decoding."""
        return self.token_text.pieces(tokens)

    @property
    def coder_path(self) -> Path | None:
        """The folder of the indexed coder, None where it was indexed from memory."""
        recorded = self.manifest.coder.path
        return Path(os.path.normpath(self.path.resolve() / recorded)) if recorded else None
