"""Beginning a pass at a block's output: the blocks before it hand their input on untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from interp_engine.hooks import hidden_from_call
from jaxtyping import Float
from torch import Tensor, nn

from saescope.errors import ModelError, UsageError
from saescope.lm.points import Point

_ABSENT = object()


@contextmanager
def skipping(
    blocks: Sequence[nn.Module], values: Float[Tensor, "batch seq d"], tuple_length: int | None
) -> Iterator[None]:
    """Within, `blocks` compute nothing and the last of them returns `values`.

    Their hooks still fire. `tuple_length` is the length of the tuple a block returns, or None for a bare tensor.
    """
    saved = [(block, block.__dict__.get("forward", _ABSENT)) for block in blocks]
    try:
        for block in blocks:
            block.forward = _returning(values if block is blocks[-1] else None, tuple_length)
        yield
    finally:
        for block, forward in saved:
            if forward is _ABSENT:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward


def _returning(values: Tensor | None, tuple_length: int | None) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = hidden_from_call(args, kwargs) if values is None else values
        return hidden if tuple_length is None else (hidden, *[None] * (tuple_length - 1))

    return forward


def tuple_length_of(output: object) -> int | None:
    """What `skipping` has to know of a block's return value; ModelError where the rest of a tuple is not empty."""
    if isinstance(output, Tensor):
        return None
    if isinstance(output, tuple) and all(rest is None for rest in output[1:]):
        return len(output)
    raise ModelError(f"a block that returns {type(output).__name__} with more than the residual stream in it")


def check_reachable(point: Point, start: Point) -> None:
    """UsageError when `point` lies before `start` and so never gets its values in a run that begins there."""
    assert start.layer is not None
    behind = point.layer is not None and (point.layer > start.layer or point == start)
    if not behind and point.name not in ("final_norm", "lm_head"):
        raise UsageError(f"{point} lies before {start}, where this run starts; ask for later points or leave out start")
