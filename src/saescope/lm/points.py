"""Hook points by name: `resid_post.14`, or `embeddings`, which has no layer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from saescope.errors import UsageError

ATTENTION_MAPS = ("attn_probs", "attn_scores")
_SYNTAX = re.compile(r"([a-z][a-z0-9_]*)(?:\.([0-9]+))?")


@dataclass(frozen=True)
class Point:
    """A named place in the model: `resid_post.14`, or `embeddings`, which has no layer."""

    name: str
    layer: int | None = None

    @classmethod
    def parse(cls, text: str) -> Point:
        found = _SYNTAX.fullmatch(text)
        if found is None:
            raise UsageError(f"{text!r} is not a hook point; write NAME.LAYER, such as resid_post.14, or embeddings")
        return cls(found[1], None if found[2] is None else int(found[2]))

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name}.{self.layer}"


def common_layer(points: Iterable[str]) -> int | None:
    """The one layer that all these points are at; None where they are at several, or have none (`embeddings`, and names
    of other tools)."""
    layers = set()
    for point in points:
        found = _SYNTAX.fullmatch(point)
        layers.add(None if found is None or found[2] is None else int(found[2]))
    return layers.pop() if len(layers) == 1 else None
