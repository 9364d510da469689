"""Which positions count: the one place that leaves out special tokens and attention sinks.

A position is kept when it is not padding, not a special token, and its norm is at most `ratio` times the reference norm at
every point the rule names. The reference norm of a point is the median norm over the ordinary tokens of a harvest's first
forward batches, as many as have `REFERENCE_TOKENS` (nearly always one: but where a sequence is a document, the first may be a
word, and its median a sink). It travels in the manifest and in every coder trained on it, so that training, metrics and
splicing leave out the same positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import StoreError, UsageError

SINK_RATIO = 10.0
REFERENCE_TOKENS = 1024


@dataclass(frozen=True)
class Exclusions:
    """What a `KeptRule` left out of one batch, by reason.

    `special` counts real special tokens; `sink[point]` counts ordinary tokens too long at that point, `any_sink` those too
    long at one point or more. Padding is no token and is counted nowhere.
    """

    kept: Bool[Tensor, "batch seq"]
    special: Bool[Tensor, "batch seq"]
    sink: dict[str, Bool[Tensor, "batch seq"]]

    @property
    def any_sink(self) -> Bool[Tensor, "batch seq"]:
        together = torch.zeros_like(self.kept)
        for sinks in self.sink.values():
            together |= sinks
        return together


@dataclass(frozen=True)
class KeptRule:
    """Special token ids, the reference norm of each point, and the ratio beyond which a position is a sink."""

    special_ids: frozenset[int]
    reference_norm: dict[str, float]
    ratio: float = SINK_RATIO

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise UsageError(f"sink ratio must be positive, got {self.ratio}")

    @classmethod
    def measured(
        cls,
        batches: Iterable[tuple[Int[Tensor, "batch seq"], Mapping[str, Float[Tensor, "batch seq d"]]]],
        special_ids: Iterable[int],
        ratio: float = SINK_RATIO,
    ) -> KeptRule:
        """The rule whose reference norms are the medians over the ordinary tokens of these batches of (tokens, activations).

        Tokens are -1 on padding. StoreError where there is no ordinary token.
        """
        if ratio == math.inf:
            raise UsageError("sink ratio must be a number that files can hold; 1e9 leaves no sink out")
        special = frozenset(int(i) for i in special_ids)
        norms: dict[str, list[Tensor]] = {}
        for tokens, activations in batches:
            ordinary = (tokens >= 0) & ~_is_special(tokens, special)
            for point, values in activations.items():
                norms.setdefault(point, []).append(norm(values)[ordinary.to(values.device)])
        together = {point: torch.cat(parts) for point, parts in norms.items()}
        if any(not found.numel() for found in together.values()):
            raise StoreError(
                "the first forward batches hold special tokens only, so no reference norm can be measured; use other text"
            )
        return cls(special, {point: float(found.median()) for point, found in together.items()}, ratio)

    @property
    def points(self) -> tuple[str, ...]:
        return tuple(self.reference_norm)

    def kept(
        self,
        tokens: Int[Tensor, "batch seq"],
        activations: Mapping[str, Float[Tensor, "batch seq d"]],
        real: Bool[Tensor, "batch seq"] | None = None,
    ) -> Bool[Tensor, "batch seq"]:
        """True where a position takes part in training, metrics, splicing and ablation.

        Padding is `tokens == -1` or, where the tokens carry a pad id, `real == False`. `activations` needs every point of
        the rule, of the unedited model.
        """
        return self.exclusions(tokens, activations, real).kept

    def exclusions(
        self,
        tokens: Int[Tensor, "batch seq"],
        activations: Mapping[str, Float[Tensor, "batch seq d"]],
        real: Bool[Tensor, "batch seq"] | None = None,
    ) -> Exclusions:
        """`kept`, with the reasons."""
        if missing := [point for point in self.points if point not in activations]:
            raise UsageError(
                f"the exclusion rule needs {', '.join(missing)}, which this run did not capture; "
                "capture it, or narrow the rule with only()"
            )
        present = tokens >= 0 if real is None else (tokens >= 0) & real
        special = present & _is_special(tokens, self.special_ids)
        ordinary = present & ~special
        sink = {
            point: ordinary & (norm(activations[point]) > self.ratio * reference).to(tokens.device)
            for point, reference in self.reference_norm.items()
        }
        kept = ordinary.clone()
        for sinks in sink.values():
            kept &= ~sinks
        return Exclusions(kept, special, sink)

    def only(self, points: Sequence[str]) -> KeptRule:
        """The same rule looking at fewer points."""
        if missing := [point for point in points if point not in self.reference_norm]:
            raise UsageError(
                f"no reference norm was measured at {', '.join(missing)}; there is {', '.join(self.points)}"
            )
        return KeptRule(self.special_ids, {point: self.reference_norm[point] for point in points}, self.ratio)

    def to_dict(self) -> dict[str, Any]:
        return {
            "special_ids": sorted(self.special_ids),
            "reference_norm": dict(self.reference_norm),
            "ratio": self.ratio,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> KeptRule:
        try:
            norms = {str(point): float(value) for point, value in data["reference_norm"].items()}
            return cls(frozenset(int(i) for i in data["special_ids"]), norms, float(data["ratio"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"the exclusion rule is unreadable ({error!r}); harvest again") from error


def norm(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """Euclidean norms, accumulated in float32 whatever the dtype: bf16 norms are off by up to 0.4 %."""
    norms: Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float32)
    return norms


def _is_special(tokens: Int[Tensor, "batch seq"], special_ids: frozenset[int]) -> Bool[Tensor, "batch seq"]:
    if not special_ids:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return torch.isin(tokens, torch.tensor(sorted(special_ids), dtype=tokens.dtype, device=tokens.device))
