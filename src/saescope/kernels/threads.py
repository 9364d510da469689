"""Ranges of work on as many threads as torch computes with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def in_ranges(
    work: Callable[[int, int], Result], n: int, least: int = 1, *, pointers: Tensor | None = None
) -> list[Result]:
    """`work(start, stop)` over [0, n) cut into one contiguous range a thread, none shorter than `least` on average.

    With `pointers` [n + 1] (ascending: what row r owns lies between its r-th and the next) ranges own about equally much.
    `work` should release the GIL (compiled code does). The cuts depend on the arguments and the number of threads only.
    Returns the results in order.
    """
    n_parts = max(1, min(torch.get_num_threads(), n // max(1, least)))
    if n_parts == 1 or threading.current_thread().name.startswith(_PREFIX):
        return [work(0, n)]
    ends = [n * part // n_parts for part in range(n_parts + 1)]
    if pointers is not None:
        owned = int(pointers[-1])
        shares = torch.tensor([owned * part // n_parts for part in range(1, n_parts)])
        ends[1:-1] = torch.searchsorted(pointers, shares).clamp(max=n).tolist()
    others = [_pool(n_parts - 1).submit(work, ends[i], ends[i + 1]) for i in range(1, n_parts)]
    try:
        first = work(ends[0], ends[1])
    finally:
        # Nobody may still write into the caller's arrays when it goes on, not even after an error.
        for other in others:
            other.exception()
    return [first, *(other.result() for other in others)]


_PREFIX = "saescope-kernels"


@cache
def _pool(n_workers: int) -> ThreadPoolExecutor:
    # A pool of its own: numba's has no guard against two callers at once, and torch's cannot be called from Python.
    return ThreadPoolExecutor(n_workers, thread_name_prefix=_PREFIX)
