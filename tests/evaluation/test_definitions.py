"""The table of metrics, its formatting, and the page that documents it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saescope.evaluation import BY_KEY, METRICS

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_every_metric_is_documented() -> None:
    page = PAGE.read_text("utf-8")
    assert [metric.key for metric in METRICS if f"`{metric.key}`" not in page] == []


def test_keys_are_distinct() -> None:
    assert len(BY_KEY) == len(METRICS)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("fvu_centered", 0.27208, "0.272"),
        ("l0", 36.3918, "36.4"),
        ("dead_fraction", 0.0123, "1.2 %"),
        ("mse", 3459.907, "3,459.9"),
        ("ce_increase", -0.25, "−0.250"),
        ("ce_mean", None, "–"),
    ],
)
def test_formatting(key: str, value: float | None, shown: str) -> None:
    assert BY_KEY[key].format(value) == shown
