"""What a harvest will cost, said before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from saescope.activations.shards import STORE_DTYPES
from saescope.errors import StoreError

_ROW_LABELS = 4 * 4
_SEQUENCE_TOKEN = 4
_OVERHEAD = 16 * 2**20


@dataclass(frozen=True)
class Plan:
    """Upper bounds: a corpus may end before `tokens`. `free_bytes` is None where it cannot be known (remote stores)."""

    tokens: int
    tokens_done: int
    bytes: int
    seconds: float
    free_bytes: int | None

    def check_fits(self, out: str, bytes_per_token: int) -> None:
        """StoreError, saying how many tokens would fit, when the disk is too small."""
        if self.free_bytes is None or self.bytes <= self.free_bytes:
            return
        fitting = max(0, self.tokens_done + (self.free_bytes - _OVERHEAD) // bytes_per_token)
        raise StoreError(
            f"{self.tokens:,} tokens need {readable_bytes(self.bytes)} at {out} and {readable_bytes(self.free_bytes)} are "
            f"free; free some, choose another --out, or use --tokens {fitting}"
        )


def bytes_per_token(widths: Mapping[str, int], store_dtype: str) -> int:
    """Disk taken by one token that is kept."""
    return sum(widths.values()) * STORE_DTYPES[store_dtype].itemsize + _ROW_LABELS + _SEQUENCE_TOKEN


def planned(tokens: int, tokens_done: int, per_token: int, seconds_per_token: float, free_bytes: int | None) -> Plan:
    remaining = max(0, tokens - tokens_done)
    return Plan(tokens, tokens_done, remaining * per_token + _OVERHEAD, remaining * seconds_per_token, free_bytes)


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def readable_bytes(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def readable_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
