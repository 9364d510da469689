"""How far long work is, as whoever does it tells whoever watches."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""`progress(stage, done, total)`: a stage's name, and how many of its total are done."""


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody is told of."""
