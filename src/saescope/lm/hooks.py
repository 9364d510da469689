"""The hooks of one run: what they capture, what they edit, and when nothing more is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from interp_engine import HookManager
from jaxtyping import Float
from torch import Tensor, nn

from saescope.errors import EditNeverFired, ModelError, UsageError
from saescope.lm.edits import Edit, Positions, apply_edit
from saescope.lm.point_table import PointTable, Tap
from saescope.lm.points import ATTENTION_MAPS


class EverythingSeen(BaseException):
    """Ends a forward pass once all that was asked for has happened.

    Not an Exception, so that no `except Exception` in a model's own code can swallow it.
    """


@dataclass
class _Place:
    """One side of one module, and every point that lies there; aliases such as `mlp_out_post` share it.

    `beside` are captures of a stream that this module only taps: edits here are not edits of it.
    """

    module: nn.Module
    side: str
    beside: list[tuple[str, Tap]] = field(default_factory=list)
    edits: list[tuple[Edit, Tap]] = field(default_factory=list)
    captures: list[tuple[str, Tap]] = field(default_factory=list)


class RunHooks:
    """Captures and edits, installed for as long as a `HookManager` is open.

    `positions` and `padded` describe the batch now going through and are set before each forward pass.
    """

    def __init__(
        self, points: PointTable, capture: Sequence[str], edits: Sequence[Edit], *, grad: bool, stop: bool
    ) -> None:
        self.activations: dict[str, Tensor] = {}
        self.fired = {edit.point: 0 for edit in edits}
        self.scores: dict[int, Tensor] = {}
        self.positions: Positions
        self.padded = False
        self._grad = grad
        self._stop = stop
        self._places: dict[tuple[int, str], _Place] = {}
        for edit in edits:
            point = points.check(edit.point)
            tap = points.tap(point)
            looks = edit.reads_only and tap.beside
            refusal = None if looks else points.edit_refusal(point)
            if refusal is not None:
                raise UsageError(refusal)
            self._place(tap).edits.append((edit, tap))
        for name in dict.fromkeys(capture):
            tap = points.tap(points.check(name))
            place = self._place(tap)
            (place.beside if tap.beside else place.captures).append((name, tap))
        self._pending = set(self._places)

    def _place(self, tap: Tap) -> _Place:
        return self._places.setdefault((id(tap.module), tap.side), _Place(tap.module, tap.side))

    @property
    def incompatible(self) -> frozenset[str]:
        """Arguments of the model's forward that would keep a point from holding every position."""
        taps = [tap for place in self._places.values() for _, tap in (*place.edits, *place.captures)]
        return frozenset({"logits_to_keep"} if any(tap.point.name == "lm_head" for tap in taps) else ())

    @property
    def attention_maps(self) -> list[Tap]:
        """The taps that only eager attention can fill."""
        taps = [tap for place in self._places.values() for _, tap in place.captures]
        return [tap for tap in taps if tap.point.name in ATTENTION_MAPS]

    def install(self, manager: HookManager) -> None:
        for key, place in self._places.items():
            # With gradients a capture is handed back, so that what comes after depends on the very tensor kept.
            rewrites = place.edits or (self._grad and place.captures and ":" not in place.side)
            (manager.write if rewrites else manager.read)(place.module, self._hook(key, place), point=place.side)

    def _hook(self, key: tuple[int, str], place: _Place) -> Callable[[Tensor], Tensor]:
        def hook(raw: Tensor) -> Tensor:
            self._pending.discard(key)
            for name, tap in place.beside:
                values = tap.read(raw, *self.positions.index.shape)
                self._keep(name, values if self._grad else values.clone())
            raw = self._edited(place, raw)
            is_last = self._stop and not self._pending
            for name, tap in place.captures:
                raw = self._captured(name, tap, raw, is_last=is_last)
            if is_last:
                raise EverythingSeen
            return raw

        return hook

    def _edited(self, place: _Place, raw: Tensor) -> Tensor:
        for edit, tap in place.edits:
            values = tap.read(raw, *self.positions.index.shape)
            if edit.reads_only:
                edit.change(values.clone(), self.positions)
                continue
            raw = tap.write(raw, apply_edit(edit, values, self.positions, padded=self.padded))
        for point in {edit.point for edit, _ in place.edits}:
            self.fired[point] += 1
        return raw

    def _captured(self, name: str, tap: Tap, raw: Tensor, *, is_last: bool) -> Tensor:
        """Keep the point's values; returns what the model goes on with."""
        if tap.point.name in ATTENTION_MAPS:
            self._keep(name, self._attention_map(tap, raw))
            return raw
        values = tap.read(raw, *self.positions.index.shape)
        if self._grad and tap.writable:
            # Kept between what came before and this module alone: the stream may go on beside it in the same tensor.
            values = values.clone()
            raw = tap.write(raw, values.clone())
        # Where the run ends here, nothing is left that could write into the model's own tensor.
        elif not is_last and values.untyped_storage().data_ptr() == raw.untyped_storage().data_ptr():
            values = values.clone()
        self._keep(name, values)
        return raw

    def _keep(self, name: str, values: Tensor) -> None:
        if name in self.activations:
            raise ModelError(f"{name} was reached twice in one pass, so one name would stand for two tensors")
        self.activations[name] = values

    def _attention_map(self, tap: Tap, raw: Tensor) -> Float[Tensor, "batch heads query key"]:
        if tap.point.name == "attn_scores":
            assert tap.point.layer is not None
            return self.scores[tap.point.layer]
        if not isinstance(raw, Tensor):
            raise ModelError(f"{tap.point}: this model's attention does not report its probabilities")
        return raw

    def check_all_fired(self) -> None:
        """EditNeverFired, or ModelError for a capture, naming what the finished pass never reached."""
        unreached = [place for key, place in self._places.items() if key in self._pending]
        edits = [str(edit) for place in unreached for edit, _ in place.edits]
        if edits:
            raise EditNeverFired(f"{', '.join(edits)} never fired: the model did not run the module there")
        names = [name for place in unreached for name, _ in (*place.beside, *place.captures)]
        if names:
            raise ModelError(f"{', '.join(names)} was never reached: the model did not run the module there")


def differentiable_from(manager: HookManager, embedding: nn.Module) -> None:
    """Make the embeddings' output the root of the gradient, since a frozen model has no other."""

    def root(output: Tensor) -> None:
        if torch.is_grad_enabled() and not output.requires_grad:
            output.requires_grad_(True)

    manager.read(embedding, root)
