"""Several hook points in one expression, expanded against the points that exist.

    expression   GROUP,GROUP…        several coders, or several points to capture
    group        PATTERN+PATTERN…    points that one coder reads or writes together
    pattern      embeddings          one point
                 resid_post.14
                 resid_post.0-29     a range of layers, both ends included
                 resid_post.0-29:2   every second of them
                 resid_post.*        every layer at which it exists; `*:2` every second of these

Patterns of a group go together layer by layer: `attn_out.*+mlp_out.*` is a group a layer. A single point in it goes with
each of the others: `embeddings+mlp_out.*`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from saescope.errors import UsageError, nearest
from saescope.lm.points import Point

Expression = str | Sequence[str]
_MANY = re.compile(r"([a-z][a-z0-9_]*)\.(?:(\*)|([0-9]+)-([0-9]+))(?::([0-9]+))?")
_FORMS = "write resid_post.14, resid_post.0-29, resid_post.0-29:2 or resid_post.*"


class PointNames:
    """The hook points of a model or a store, by name.

    owner: who has them, for messages. names: None where nobody knows which exist; only single points can be named then.
    refuse: says more about a single point that does not exist, by raising.
    """

    def __init__(
        self, names: Iterable[str] | None, owner: str, *, refuse: Callable[[str], object] | None = None
    ) -> None:
        self.owner = owner
        self.names = tuple(names or ())
        self._known = names is not None
        self._present = frozenset(self.names)
        self._refuse = refuse
        self._layers: dict[str, list[int]] = {}
        for point in map(Point.parse, self.names):
            if point.layer is not None:
                self._layers.setdefault(point.name, []).append(point.layer)

    def points(self, expression: Expression) -> list[str]:
        """The points of an expression (or of several), in order of mention. UsageError, in one line, where one does not
        exist, is named twice, or is joined with another by `+`."""
        found = []
        for group in _split(expression):
            if "+" in group:
                raise UsageError(f"{group!r} joins points that one coder reads or writes; list points with commas here")
            found += self._pattern(group)
        _refuse_twice(found)
        return found

    def groups(self, expression: Expression) -> list[tuple[str, ...]]:
        """The groups of an expression (or of several), in order of mention: the points of one coder each."""
        found: list[tuple[str, ...]] = []
        for group in _split(expression):
            parts = [self._pattern(part.strip()) for part in group.split("+")]
            longest = max(len(part) for part in parts)
            for text, part in zip(group.split("+"), parts, strict=True):
                if len(part) not in (1, longest):
                    raise UsageError(
                        f"{group!r} joins points layer by layer, but {text.strip()} is {len(part)} points and another part "
                        f"{longest}; name as many of each"
                    )
            for index in range(longest):
                together = tuple(part[index if len(part) > 1 else 0] for part in parts)
                _refuse_twice(together)
                found.append(together)
        return found

    def _pattern(self, text: str) -> list[str]:
        many = _MANY.fullmatch(text)
        if many is None:
            return [self._single(text)]
        name, star, first, last, every = many.groups()
        step = 1 if every is None else int(every)
        if not step:
            raise UsageError(f"{text!r} steps by 0 layers; a step is 1 or more")
        if not self._known:
            raise UsageError(f"{text!r}: which layers there are is not known here; name the points one by one")
        if name not in self._layers:
            self._refuse_name(text, name)
        here = sorted(self._layers[name])
        if star:
            return [f"{name}.{layer}" for layer in here[::step]]
        if int(first) > int(last):
            raise UsageError(f"{text!r} begins at layer {first} and ends at {last}; write {name}.{last}-{first}")
        wanted = range(int(first), int(last) + 1, step)
        missing = next((layer for layer in wanted if layer not in here), None)
        if missing is not None:
            raise UsageError(f"{text}: {name}.{missing} is not in {self.owner}, which has {condensed(self._of(name))}")
        return [f"{name}.{layer}" for layer in wanted]

    def _single(self, text: str) -> str:
        if text in self._present:
            return text
        try:
            point = Point.parse(text)
        except UsageError:
            raise UsageError(f"{text!r} is not a hook point; {_FORMS}") from None
        if not self._known:
            return text
        if self._refuse is not None:
            self._refuse(text)
        if point.name not in {Point.parse(name).name for name in self.names}:
            self._refuse_name(text, point.name)
        raise UsageError(f"{text} is not in {self.owner}, which has {condensed(self._of(point.name))}")

    def _refuse_name(self, text: str, name: str) -> NoReturn:
        if name in self._present:
            raise UsageError(f"{text}: {name} has no layers; write {name}")
        close = nearest(name, {Point.parse(known).name for known in self.names})
        hint = close or f"; it has {condensed(self.names) or 'no hook points'}"
        raise UsageError(f"{text}: {self.owner} has no {name}{hint}")

    def _of(self, name: str) -> list[str]:
        return [point for point in self.names if Point.parse(point).name == name]


def condensed(points: Iterable[str]) -> str:
    """The points as an expression, as short as ranges make it: `embeddings, resid_post.0-29, mlp_out.0-28:2`."""
    layers: dict[str, set[int | None]] = {}
    for point in map(Point.parse, points):
        layers.setdefault(point.name, set()).add(point.layer)
    parts = []
    for name, found in layers.items():
        parts += [name] if None in found else []
        parts += [f"{name}.{part}" for part in _runs(sorted(layer for layer in found if layer is not None))]
    return ", ".join(parts)


def _runs(layers: list[int]) -> list[str]:
    """Ascending numbers as `3`, `0-29` and `0-28:2`; a run is three or more at equal distance."""
    found = []
    start = 0
    while start < len(layers):
        end = start + 1
        step = layers[end] - layers[start] if end < len(layers) else 1
        while end + 1 < len(layers) and layers[end + 1] - layers[end] == step:
            end += 1
        if end - start < 2:
            found.append(str(layers[start]))
            start += 1
            continue
        found.append(f"{layers[start]}-{layers[end]}" + (f":{step}" if step > 1 else ""))
        start = end + 1
    return found


def _split(expression: Expression) -> list[str]:
    whole = expression if isinstance(expression, str) else ",".join(expression)
    return [part.strip() for part in whole.split(",") if part.strip()]


def _refuse_twice(points: Sequence[str]) -> None:
    if twice := sorted({point for point in points if points.count(point) > 1}):
        raise UsageError(f"hook point given twice: {', '.join(twice)}")
