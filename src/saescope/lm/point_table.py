"""Hook points of one model: which exist, where each lies, and how its module's tensor becomes `[batch, seq, d]`.

Where a point lies is interp-engine's knowledge alone (`EagerModel.resolve_point`). What is added here is one view
of every point as a vector per token that can be read and written back, whatever the module made of it: heads on
their own axis, queries, keys and values packed in one matrix, or the batch flattened into one list of tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from interp_engine import EagerModel, facts, split_fused_qkv
from interp_engine.points import Scope, d_model_wide, steer_refusal_reason
from jaxtyping import Float, Int
from torch import Tensor, nn

from saescope.errors import ModelError, UsageError, nearest
from saescope.lm.points import ATTENTION_MAPS, Point


@dataclass(frozen=True)
class Tap:
    """Where one point lies, and the view of that tensor as one vector per token."""

    point: Point
    module: nn.Module
    side: str
    part: _Part | None = None
    scale: float = 1.0

    @property
    def beside(self) -> bool:
        """Whether the module reads a stream that goes on beside it, so that replacing its input leaves the stream."""
        return self.point.name == "resid_mid"

    @property
    def writable(self) -> bool:
        return ":" not in self.side

    def read(self, raw: Tensor, batch: int, seq: int) -> Float[Tensor, "batch seq d"]:
        """The point's values out of what the module was given or made."""
        if not isinstance(raw, Tensor):
            raise ModelError(f"{self.point}: the module gave {type(raw).__name__} where a tensor belongs")
        values = raw if self.part is None else raw.index_select(-1, self.part.columns(raw.shape[-1], raw.device))
        values = _token_major(values, batch, seq, self.point)
        return values if self.scale == 1.0 else values * self.scale

    def write(self, raw: Tensor, values: Float[Tensor, "batch seq d"]) -> Tensor:
        """`raw` with the point's values replaced; the inverse of `read`."""
        batch, seq = values.shape[:2]
        if self.scale != 1.0:
            values = values / self.scale
        if self.part is not None:
            columns = self.part.columns(raw.shape[-1], raw.device)
            return raw.index_copy(-1, columns, values.reshape(*raw.shape[:-1], columns.numel()))
        if _is_head_major(raw, batch, seq):
            return values.reshape(batch, seq, raw.shape[1], raw.shape[3]).transpose(1, 2)
        return values.reshape(raw.shape)


class _Part:
    """Some columns of a matrix that packs several points side by side."""

    def __init__(self, split: Any) -> None:
        self._split = split
        self._columns: Int[Tensor, " d"] | None = None

    def columns(self, width: int, device: torch.device) -> Int[Tensor, " d"]:
        # The packing's own splitter, applied to column numbers, says which columns are whose.
        if self._columns is None or self._columns.device != device:
            numbers = torch.arange(width, device=device).reshape(1, 1, width)
            self._columns = self._split(numbers).reshape(-1).contiguous()
        return self._columns


def _is_head_major(raw: Tensor, batch: int, seq: int) -> bool:
    """Whether a 4-D tensor is `[batch, heads, seq, head_dim]`, as families make it that norm after the transpose.

    With as many heads as positions the shape says nothing, but the transpose left its stride behind.
    """
    if raw.ndim != 4 or raw.shape[0] != batch or raw.shape[2] != seq:
        return False
    return raw.shape[1] != seq or raw.stride(1) < raw.stride(2)


def _token_major(raw: Tensor, batch: int, seq: int, point: Point) -> Float[Tensor, "batch seq d"]:
    if raw.ndim == 3 and raw.shape[:2] == (batch, seq):
        return raw
    if _is_head_major(raw, batch, seq):
        return raw.transpose(1, 2).flatten(2)
    if raw.ndim >= 4 and raw.shape[:2] == (batch, seq):
        return raw.flatten(2)
    if raw.ndim >= 2 and raw.shape[0] == batch * seq:
        return raw.reshape(batch, seq, -1)
    raise ModelError(f"{point}: shape {tuple(raw.shape)} does not hold a vector for each of {batch} x {seq} tokens")


class PointTable:
    """The hook points of one model."""

    def __init__(self, engine: EagerModel, model_name: str) -> None:
        self._engine = engine
        self._model_name = model_name
        self._taps: dict[Point, Tap] = {}

    @cached_property
    def names(self) -> list[str]:
        """Every point of this model, by forward order within a layer."""
        found = []
        for spec in self._engine.points():
            layers = [None] if spec.scope is Scope.GLOBAL else range(self._engine.n_layers)
            found += [point for layer in layers if self._refusal(point := Point(spec.name, layer)) is None]
        return [str(point) for point in sorted(found, key=lambda point: -1 if point.layer is None else point.layer)]

    def check(self, text: str) -> Point:
        """The point `text` names, or a UsageError with the nearest names that exist."""
        point = Point.parse(text)
        if str(point) in self.names:
            return point
        where = f"{text} is not a hook point of {self._model_name}"
        known = {spec.name: spec.scope for spec in self._engine.points()}
        if point.name not in known:
            # Names are compared with names and the layer put back, or a wrong digit outweighs a wrong word.
            here = {Point.parse(name).name for name in self.names}
            close = nearest(point.name, here).removeprefix("; nearest: ").split(", ")
            at_layer = [self._with_layer(name, point.layer, known[name]) for name in close if name]
            hint = f"; nearest: {', '.join(at_layer)}" if at_layer else f"; there are {', '.join(sorted(here))}"
            raise UsageError(where + hint)
        if known[point.name] is Scope.GLOBAL:
            raise UsageError(f"{where}: it has no layer; nearest: {point.name}")
        last = self._engine.n_layers - 1
        if point.layer is None:
            raise UsageError(f"{where}: say which layer, 0 to {last}; nearest: {point.name}.{last // 2}")
        if point.layer > last:
            raise UsageError(f"{where}: its layers are 0 to {last}; nearest: {point.name}.{last}")
        beside = [name for name in self.names if Point.parse(name).layer == point.layer]
        raise UsageError(f"{where}: {_one_line(self._refusal(point) or '')}{nearest(text, beside)}")

    def tap(self, point: Point) -> Tap:
        """Where a checked point lies."""
        if point not in self._taps:
            self._taps[point] = self._resolve(point)
        return self._taps[point]

    def edit_refusal(self, point: Point) -> str | None:
        """Why a checked point can only be read, in one line, or None."""
        if self.tap(point).beside:
            return (
                f"{point} can be read, not edited: the residual stream goes on beside the module it is read at; "
                f"edit attn_out_post.{point.layer} to change the stream or mlp_in.{point.layer} what the MLP reads"
            )
        if point.name in ATTENTION_MAPS or not self.tap(point).writable:
            return f"{point} can be read, not edited: it is reported by the model, which has already used it"
        reason = steer_refusal_reason(point.name)
        return f"{point} can be read, not edited: {_one_line(reason)}" if reason else None

    def known_width(self, point: Point) -> int | None:
        """The width where the architecture fixes it."""
        if point.name in d_model_wide():
            return int(self._engine.d_model)
        return int(self._engine.vocab_size) if point.name == "lm_head" else None

    def _with_layer(self, name: str, layer: int | None, scope: Scope) -> str:
        if scope is Scope.GLOBAL:
            return name
        last = self._engine.n_layers - 1
        return f"{name}.{last // 2 if layer is None else min(layer, last)}"

    def _refusal(self, point: Point) -> str | None:
        if point.name in ATTENTION_MAPS and point.layer is not None:
            # Refused by interp-engine unless the model was loaded with eager attention, which a run switches to
            # for as long as it lasts; what counts is whether the layer has a softmax at all.
            if self._engine.is_linear_attention_layer(point.layer):
                return "this layer computes no softmax attention"
            return None
        if self._engine.derived_routing(point.name, point.layer) is not None:
            return "this model routes inside a fused kernel, which no hook can read"
        reason = self._engine.refuses((point.name, point.layer))
        return None if reason is None else str(reason)

    def _resolve(self, point: Point) -> Tap:
        arch = self._engine.arch
        if point.name in ATTENTION_MAPS:
            return Tap(point, arch.attn_module(point.layer), "output:1")
        module, side = self._engine.resolve_point(point.name, point.layer)
        if point.name == "value" and arch.quirks.fused_qkv:
            return Tap(point, module, side, _Part(lambda packed: split_fused_qkv(self._engine, packed)["v"]))
        if point.name in ("mlp_pre", "mlp_pre_linear") and (fused := arch.fused_gate_up(point.layer)) is not None:
            branch = "gate" if point.name == "mlp_pre" else "up"
            return Tap(point, module, side, _Part(lambda packed: facts.split_fused_gate_up(packed, fused[1])[branch]))
        attn_scale, mlp_scale = arch.quirks.residual_multipliers
        scale = {"attn_out_post": attn_scale, "mlp_out_post": mlp_scale}.get(point.name, 1.0)
        return Tap(point, module, side, scale=float(scale))


def _one_line(text: str) -> str:
    """The first sentence of a refusal that runs to a paragraph."""
    sentence = re.split(r"(?<=[a-z0-9'\"`)])[.:](?:\s|$)", " ".join(text.split()), maxsplit=1)[0]
    return sentence.rstrip(".")
