"""How the comparison settles one threshold for every library's batch rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture
def measure(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("peers/measure")


class HeldOut:
    """An export with these held-out rows, in chunks of seven."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def held_out(self, point: str) -> HeldOut:
        return self

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self) -> Iterator[Tensor]:
        return iter(self.rows.split(7))


@pytest.mark.parametrize("l0", [1, 3, 8])
@pytest.mark.parametrize("rich", [0, 50, 99])
def test_the_threshold_leaves_the_wanted_l0_where_one_row_has_most_of_it(measure: Any, l0: int, rich: int) -> None:
    pre = torch.rand(100, 400, generator=torch.Generator().manual_seed(0))
    pre[rich] += 1.0
    threshold = measure.threshold_for(HeldOut(pre), "a", lambda x: x, l0)
    assert int((pre > threshold).sum()) == l0 * 100
    # At this L0 a row by itself holds half of all that is active, or all of it.
    assert int((pre[rich] > threshold).sum()) == min(l0 * 100, 400)
