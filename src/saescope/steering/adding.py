"""Adding a feature: its decoder row, scaled in units of its own maximum, at every kept position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.activations import KeptRule
from saescope.activations.exclusions import norm
from saescope.coders import SparseCoder
from saescope.errors import CoderError, UsageError
from saescope.lm import Edit, Positions


@dataclass(frozen=True)
class Addition:
    """What an addition amounted to so far: mean Euclidean norms over the positions that were edited, or would have been at
    another strength. `edit` is per row; `residual` is of the activation before the edit; NaN where no position was seen."""

    edit: tuple[float, ...]
    residual: float
    positions: int


class AddFeature:
    """strength · maximum · W_dec[feature], added to what `coder` writes.

    strength: in units of `maximum`, the feature's largest activation on text; one number, or one for each row of the batch,
    so that a baseline (0) and steered rows run side by side. A row of strength 0 keeps the model's own bits.
    Kept positions only: not padding, not the special tokens and attention sinks that `rule` leaves out. The rule looks at
    those of its points that the pass reaches before the first edit, which that cannot have changed, and what it finds holds at
    every point the coder writes; without a rule every real position is edited. A coder that normalises each token by itself
    adds in that token's own scale, as its decoder does.

    CoderError for a feature the coder has not, and in a run for a coder of another width than the model; UsageError for a
    strength or maximum that is no number.
    """

    def __init__(
        self,
        coder: SparseCoder,
        feature: int,
        strength: float | Sequence[float],
        *,
        maximum: float,
        rule: KeptRule | None = None,
    ) -> None:
        if not 0 <= feature < coder.d_sae:
            raise CoderError(f"feature {feature} is not one of the coder's {coder.d_sae}; give 0 to {coder.d_sae - 1}")
        strengths = tuple(float(value) for value in (strength if isinstance(strength, Iterable) else [strength]))
        for value in (*strengths, maximum):
            if not math.isfinite(value):
                raise UsageError(f"strength {strength} and maximum {maximum} must be numbers, in units of activation")
        self.coder, self.feature, self.rule = coder, feature, rule
        self.strengths = strengths
        self.maximum = maximum
        self._direction = coder.W_dec.detach()[feature].float()
        self._sinks: list[tuple[Positions, Bool[Tensor, "batch seq"]]] = []
        self._decided: tuple[Positions, Bool[Tensor, "batch seq"]] | None = None
        self._edited, self._residual, self._count = [0.0] * len(strengths), 0.0, 0
        self._rows_counted = [0] * len(strengths)

    @property
    def edits(self) -> list[Edit]:
        """For a run, `generate` or `stream`."""
        writes = [part.point for part in self.coder.writes]
        looked_at = [point for point in (self.rule.points if self.rule else ()) if point not in writes]
        watching = [Edit(point, self._watcher(point), name=f"norm at {point}", reads_only=True) for point in looked_at]
        parts = self._direction.split([part.width for part in self.coder.writes])
        name = f"feature {self.feature}"
        return watching + [
            Edit(point, self._adder(point, part), name=name) for point, part in zip(writes, parts, strict=True)
        ]

    @property
    def report(self) -> Addition:
        """Over all passes so far, and all points the coder writes."""
        edit = tuple(
            total / count if count else math.nan for total, count in zip(self._edited, self._rows_counted, strict=True)
        )
        return Addition(edit, self._residual / self._count if self._count else math.nan, self._count)

    def _watcher(self, point: str) -> Callable[[Tensor, Positions], Tensor]:
        def look(values: Tensor, positions: Positions) -> Tensor:
            self._add_sinks(point, values, positions)
            return values

        return look

    def _add_sinks(self, point: str, values: Tensor, positions: Positions) -> None:
        """Remember which of this pass's positions are too long at `point`. Each pass brings its own `Positions`."""
        assert self.rule is not None
        self._sinks = [(of, sinks) for of, sinks in self._sinks if of is positions]
        self._sinks.append((positions, norm(values) > self.rule.ratio * self.rule.reference_norm[point]))

    def _kept(self, point: str, values: Tensor, positions: Positions) -> Bool[Tensor, "batch seq"]:
        kept = positions.real.to(values.device)
        if self.rule is None:
            return kept
        if self._decided is not None and self._decided[0] is positions:
            # At a later point norms are those of what was edited before.
            return self._decided[1].to(values.device)
        if point in self.rule.reference_norm:
            self._add_sinks(point, values, positions)
        for of, sinks in self._sinks:
            if of is positions:
                kept = kept & ~sinks
        special = torch.tensor(sorted(self.rule.special_ids), dtype=torch.long, device=positions.tokens.device)
        kept = kept & ~torch.isin(positions.tokens, special).to(values.device)
        self._decided = (positions, kept)
        return kept

    def _adder(self, point: str, direction: Tensor) -> Callable[[Tensor, Positions], Tensor]:
        def add(values: Tensor, positions: Positions) -> Tensor:
            if values.shape[-1] != direction.numel():
                raise CoderError(
                    f"coder {self.coder.metadata.name or 'given'} writes {direction.numel()} numbers at {point}, "
                    f"the model has {values.shape[-1]} there; give its own model's coder"
                )
            strength = self._per_row(values)
            kept = self._kept(point, values, positions)
            before = values[kept].float()
            # In float32, rounded once to the model's dtype.
            delta = self._scale(values)[kept] * (strength[:, None] * self.maximum).expand(kept.shape)[kept][:, None]
            delta = delta * direction.to(values.device)
            self._count_norms(kept, before, delta)
            moved = kept & (strength != 0)[:, None]
            chosen = moved[kept]
            return values.index_put((moved,), (before + delta)[chosen].to(values.dtype))

        return add

    def _per_row(self, values: Tensor) -> Float[Tensor, "batch"]:
        rows = values.shape[0]
        if len(self.strengths) not in (1, rows):
            raise UsageError(
                f"{len(self.strengths)} strengths were given for a batch of {rows}; give one, or one for each row"
            )
        return torch.tensor(self.strengths, device=values.device).expand(rows)

    def _scale(self, values: Tensor) -> Float[Tensor, "batch seq 1"]:
        """What one unit of the coder's output is at each token."""
        token_norm = self.coder.token_norm
        if token_norm is None or self.coder.reads != self.coder.writes:
            return values.new_ones(*values.shape[:2], 1, dtype=torch.float32)
        x = values.float().flatten(0, 1)
        one = x.new_ones(len(x), 1)
        scale = token_norm.undo(one, x) - token_norm.undo(torch.zeros_like(one), x)
        return scale.reshape(*values.shape[:2], 1)

    def _count_norms(self, kept: Tensor, before: Tensor, delta: Tensor) -> None:
        self._residual += float(norm(before).sum())
        self._count += len(before)
        row = (
            kept.nonzero(as_tuple=True)[0] if len(self.strengths) > 1 else kept.new_zeros(len(before), dtype=torch.long)
        )
        sizes = norm(delta)
        for number in range(len(self.strengths)):
            own = row == number
            self._edited[number] += float(sizes[own].sum())
            self._rows_counted[number] += int(own.sum())


def added(
    coder: SparseCoder,
    feature: int,
    strength: float | Sequence[float],
    *,
    maximum: float,
    rule: KeptRule | None = None,
) -> list[Edit]:
    """The edits of an `AddFeature`, for who needs no report."""
    return AddFeature(coder, feature, strength, maximum=maximum, rule=rule).edits
