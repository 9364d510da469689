"""How much memory a stream may fill with rows, and how a person writes an amount of it."""

from __future__ import annotations

import re

from saescope.errors import UsageError

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}{suffix}": 2 ** (10 * n) for n, letter in enumerate("kmgt", 1) for suffix in ("", "ib")}
_UNITS |= {f"{letter}b": 10 ** (3 * n) for n, letter in enumerate("kmgt", 1)}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)")


def parse_bytes(text: str) -> int:
    """`2GiB`, `512MiB`, `1.5 GB` or a plain number of bytes. A bare K, M, G or T is binary. UsageError otherwise."""
    found = _AMOUNT.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{text!r} is not an amount of memory; write 2GiB, 512MiB or a number of bytes")
    amount = float(found[1]) * _UNITS[found[2]]
    if amount > 2**63:
        raise UsageError(f"{text[:40]!r} is more memory than any machine has")
    return int(amount)


def rows_within(memory: int | None, row_bytes: int, *, default: int, at_most: int, copies: int = 1) -> int:
    """Rows that fit `copies` times into `memory` bytes. Where nothing is said: into `default` bytes, and at most `at_most`.

    UsageError where not even one row fits what was asked for.
    """
    if memory is None:
        return max(1, min(at_most, default // (copies * row_bytes)))
    rows = memory // (copies * row_bytes)
    if rows < 1:
        raise UsageError(f"{memory:,} bytes of memory hold not one row of {row_bytes:,} bytes; give more")
    return rows
