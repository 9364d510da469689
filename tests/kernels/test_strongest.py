"""The largest numbers by groups are those that torch's top-k finds. Without a GPU in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.conftest import DEVICE, needs_triton
from torch import Tensor

from saescope.kernels import strongest

pytestmark = needs_triton
SHAPES = [(1024, 7), (997, 60), (2048, 64), (515, 1), (640, 33)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def awkward_rows(columns: int, dtype: torch.dtype) -> Tensor:
    """Ordinary numbers, many ties, all negative, zeros of either sign, the largest side by side, and infinities."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, columns, generator=generator)
    rows[1] = torch.randint(-3, 3, (columns,), generator=generator).float()
    rows[2] = -rows[2].abs() - 1
    rows[3], rows[4] = 0.0, -0.0
    rows[5] = torch.arange(columns)
    rows[6, ::2] = float("inf")
    rows[7] = float("-inf")
    rows[8, 1:] = float("-inf")
    return rows.to(DEVICE, dtype)


def sorted_values(values: Tensor) -> Tensor:
    return values.float().sort().values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("columns", "k"), SHAPES)
def test_each_row_gets_its_largest_in_order(columns: int, k: int, dtype: torch.dtype) -> None:
    rows = awkward_rows(columns, dtype)
    assert strongest._group(rows, k) > 1, "it searches groups"
    found = strongest.largest_of_each_row(rows, k)
    assert (found.diff(dim=1) > 0).all()
    for row, mine in zip(rows, found, strict=True):
        assert torch.equal(sorted_values(row[mine]), sorted_values(row.topk(k).values))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("columns", "k"), [(1024, 7), (2048, 64), (640, 33)])
def test_the_whole_matrix_gives_its_largest(columns: int, k: int, dtype: torch.dtype) -> None:
    rows = awkward_rows(columns, dtype)
    for count in (1, 9 * k - 3, 9 * k):
        values, positions = strongest.largest(rows, count)
        assert positions.unique().numel() == count
        assert torch.equal(rows.flatten()[positions], values)
        assert torch.equal(sorted_values(values), sorted_values(rows.flatten().topk(count).values))


@pytest.mark.parametrize("value", [float("nan"), -float("nan")])
def test_rows_that_are_no_numbers_still_get_k_columns(value: float) -> None:
    rows = torch.full((3, 1024), value, device=DEVICE)
    rows[1, ::3] = 1.0
    found = strongest.largest_of_each_row(rows, 5)
    assert (found.diff(dim=1) > 0).all()
    assert ((found >= 0) & (found < 1024)).all()


@pytest.mark.parametrize(
    ("rows", "k"),
    [
        (torch.randn(2, 100), 3),
        (torch.randn(2, 1024), 100),
        (torch.randn(2, 1024, dtype=torch.float64), 3),
        (torch.randn(1024, 4).T, 3),
        (torch.randn(2, 20000), 1100),
    ],
    ids=["few columns", "many wanted", "float64", "not contiguous", "too many to search"],
)
def test_what_groups_do_not_serve_is_torchs_choice(rows: Tensor, k: int) -> None:
    rows = rows.to(DEVICE)
    expected = rows.topk(k, dim=1).indices.sort(dim=1).values
    assert torch.equal(strongest.largest_of_each_row(rows, k), expected)
    count = k * rows.shape[0]
    assert torch.equal(
        sorted_values(strongest.largest(rows, count)[0]), sorted_values(rows.flatten().topk(count).values)
    )
