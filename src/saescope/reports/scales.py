"""Axes: where ticks go and how numbers on them read."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps data in [low, high] to [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log10(max(number, 1e-300)) for number in (value, low, high))
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers within the scale; powers of ten (or 1, 2, 5 of them) on a logarithmic one."""
        if not self.log:
            return [tick for tick in nice_ticks(self.low, self.high, about) if self.low <= tick <= self.high]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [tick for tick in found if self.low * (1 - 1e-9) <= tick <= self.high * (1 + 1e-9)]
        # A narrow scale may have none of these within it.
        return inside or [tick for tick in nice_ticks(self.low, self.high, about) if self.low <= tick <= self.high]


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that cover [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if raw <= multiple * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """A linear scale over round limits that hold [low, high]."""
    ticks = nice_ticks(low, high)
    return Scale(ticks[0], ticks[-1] if len(ticks) > 1 else ticks[0] + 1, start, end)


def readable(value: float) -> str:
    """A number as short as an axis wants it: 250k, 1.5M, 0.02, 1e-5."""
    size = abs(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit * (1 - 1e-9):
            return f"{value / limit:.3g}{suffix}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.3g}"
