"""Options that take several values say in a line what they cannot read."""

from __future__ import annotations

import pytest

from saescope.cli.listed import pairs, whole_numbers
from saescope.errors import UsageError


def test_settings_are_read_as_yaml() -> None:
    assert pairs("--set", ["betas=[0, 0.999]", "name=a=b", "empty="]) == {
        "betas": [0, 0.999],
        "name": "a=b",
        "empty": None,
    }


@pytest.mark.parametrize("value", ["betas=[0,", "x={", "x=a: b: c", "x=\x00", "betas"])
def test_a_setting_that_is_no_yaml_is_one_line(value: str) -> None:
    with pytest.raises(UsageError, match=r"^--set ") as caught:
        pairs("--set", [value])
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_whole() -> None:
    assert whole_numbers("--seeds", "1, 2,") == [1, 2]
    for wrong in ("1.5", "nan", "inf", "x"):
        with pytest.raises(UsageError, match="--seeds takes"):
            whole_numbers("--seeds", wrong)
