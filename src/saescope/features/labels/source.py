"""What labelling needs of a feature index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


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
