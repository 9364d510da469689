"""Memory as people write it, and what fits into it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saescope.activations import ModelStream, Store, StoreStream, parse_bytes
from saescope.activations.memory import rows_within
from saescope.activations.model_stream import BLOCK_ROWS, BLOCKS_BYTES
from saescope.activations.store_stream import WINDOW_ROWS
from saescope.errors import UsageError
from saescope.lm import LanguageModel
from saescope.text import Corpus, SequenceOptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2GiB", 2**31),
        ("2g", 2**31),
        ("1.5 GB", 1_500_000_000),
        (" 512mib ", 2**29),
        ("4096", 4096),
        ("10 B", 10),
        ("3kb", 3000),
    ],
)
def test_amounts(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1", "1e9", "2 GiBs", "GiB", "1,5GB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write 2GiB, 512MiB or a number of bytes"):
        parse_bytes(text)


@given(st.integers(1, 2**40), st.integers(1, 2**20), st.integers(1, 2))
def test_rows_fill_the_memory_and_no_more(memory: int, row_bytes: int, copies: int) -> None:
    if memory < row_bytes * copies:
        with pytest.raises(UsageError, match="hold not one row"):
            rows_within(memory, row_bytes, default=1, at_most=1, copies=copies)
        return
    rows = rows_within(memory, row_bytes, default=1, at_most=1, copies=copies)
    assert rows * row_bytes * copies <= memory < (rows + 1) * row_bytes * copies


def test_defaults_leave_a_single_point_as_it_is_and_bound_sixty() -> None:
    def block(row_bytes: int) -> int:
        return rows_within(None, row_bytes, default=BLOCKS_BYTES, at_most=BLOCK_ROWS, copies=2)

    assert block(576 * 2) == BLOCK_ROWS
    assert 2 * block(60 * 576 * 2) * 60 * 576 * 2 <= BLOCKS_BYTES
    assert block(2**40) == 1


def test_two_blocks_stay_within_the_memory(lm: LanguageModel, corpus: Corpus, options: SequenceOptions) -> None:
    def rows(memory: int, batch_tokens: int = 128) -> int:
        stream = ModelStream(
            lm, corpus, "resid_post.*,mlp_out.*", options, tokens=3000, batch_size=32, batch_tokens=batch_tokens, memory=memory
        )  # fmt: skip
        return next(iter(stream.statistics().values())).n_rows

    row = 6 * 24 * 2
    for memory in (2 * 32 * row, 200_000, 500_000):
        # Less than a forward batch is whole sequences; more is whole forward batches.
        for batch_tokens in (32, 128, 4096):
            assert 0 < 2 * rows(memory, batch_tokens) * row <= memory
    assert rows(10**9) > rows(500_000) > rows(200_000)
    with pytest.raises(UsageError, match=r"hold two sequences of 32 tokens at 6 hook points; give at least 18\.0 KiB"):
        rows(2 * 32 * row - 1)


def test_a_stores_window_follows_the_width_of_what_is_read(store: Store) -> None:
    assert StoreStream(store, batch_size=64).window_rows == WINDOW_ROWS
    assert StoreStream(store, batch_size=64, memory=96_000).window_rows == 1000
    assert StoreStream(store, "mlp_out.*", batch_size=64, memory=96_000).window_rows == 2000
