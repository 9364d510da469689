"""Generation token by token, for someone who watches.

The model is held for one step at a time and its hooks are off between steps: several streams, and runs beside them,
take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack

import torch
from interp_engine import HookManager

from saescope.lm.generation import Continuation
from saescope.lm.hooks import RunHooks

Hold = Callable[[], AbstractContextManager[None]]


def stream_rows(
    continuation: Continuation, hooks: RunHooks, max_new_tokens: int, hold: Hold
) -> Generator[list[int | None], None, None]:
    """`continuation`'s steps, each inside `hold()`, until every row has ended or `max_new_tokens`.

    Nothing is held while the consumer has a step's tokens, nor after it closes the iterator.
    """
    for _ in range(max_new_tokens):
        with ExitStack() as stack:
            stack.enter_context(hold())
            stack.enter_context(torch.no_grad())
            hooks.install(stack.enter_context(HookManager()))
            said = continuation.step()
        yield said
        if continuation.ended:
            return
