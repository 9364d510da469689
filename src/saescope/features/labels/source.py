"""What labelling needs of a feature index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saescope.errors import UsageError


class NamedArrays(Protocol):
    """Arrays by name."""

    def __getitem__(self, name: str) -> NDArray[Any]: ...


class LabelSource(Protocol):
    """The part of a `FeatureIndex` that labels are made from.

    arrays: tokens, document, kept [positions], sequence_offsets, feature_offsets, feature_positions, feature_values and,
    where the weights were looked at, lens_top.
    """

    @property
    def arrays(self) -> NamedArrays: ...

    @property
    def documents(self) -> Sequence[Any]: ...

    @property
    def d_sae(self) -> int: ...

    @property
    def n_positions(self) -> int: ...

    def has(self, name: str) -> bool: ...

    def pieces(self, tokens: Sequence[int]) -> list[str]: ...


def live_features(source: LabelSource) -> NDArray[np.int64]:
    """The features that fired at all."""
    return np.flatnonzero(np.diff(np.asarray(source.arrays["feature_offsets"])))


def features_to_label(source: LabelSource, features: Iterable[int] | None) -> NDArray[np.int64]:
    """Those named that fired, ascending, each once; all that fired where None. UsageError for one that is not there, and
    where none is left."""
    live = live_features(source)
    if features is None:
        return live
    wanted = sorted(set(features))
    outside = [feature for feature in wanted if not 0 <= feature < source.d_sae]
    if outside:
        raise UsageError(f"there is no feature {outside[0]}: the index has {source.d_sae:,}, from 0 on")
    found = np.intersect1d(np.array(wanted, np.int64), live)
    if not found.size:
        raise UsageError(
            "none of the features named fires on the indexed text, so there is nothing to label; name others"
        )
    return found
