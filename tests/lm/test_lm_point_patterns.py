"""Expressions for several hook points."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saescope.errors import SaescopeError, UsageError
from saescope.lm import LanguageModel, PointNames, common_layer, condensed

NAMES = [
    "embeddings",
    *(f"{name}.{layer}" for layer in range(12) for name in ("attn_out", "mlp_in", "mlp_out")),
    *(f"resid_post.{layer}" for layer in (0, 3, 6, 9, 10)),
]
HERE = PointNames(NAMES, "the store acts")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("mlp_in.3", "mlp_in.3"),
        ("embeddings", "embeddings"),
        ("mlp_in.3, mlp_out.3,", "mlp_in.3 mlp_out.3"),
        ("mlp_in.9-11", "mlp_in.9 mlp_in.10 mlp_in.11"),
        ("mlp_in.0-11:5", "mlp_in.0 mlp_in.5 mlp_in.10"),
        ("mlp_in.4-4", "mlp_in.4"),
        ("resid_post.*", "resid_post.0 resid_post.3 resid_post.6 resid_post.9 resid_post.10"),
        ("resid_post.*:2", "resid_post.0 resid_post.6 resid_post.10"),
        ("mlp_out.1,embeddings,mlp_in.0-1", "mlp_out.1 embeddings mlp_in.0 mlp_in.1"),
        ("", ""),
        (" , ", ""),
    ],
)
def test_points_come_in_the_order_of_mention(expression: str, expected: str) -> None:
    assert HERE.points(expression) == expected.split()
    assert HERE.points(expression.split(",")) == expected.split()
    assert HERE.groups(expression) == [(point,) for point in expected.split()]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("mlp_in.3+mlp_in.4", [("mlp_in.3", "mlp_in.4")]),
        ("mlp_in.3 + mlp_in.4,mlp_out.0", [("mlp_in.3", "mlp_in.4"), ("mlp_out.0",)]),
        ("attn_out.0-1+mlp_out.0-1", [("attn_out.0", "mlp_out.0"), ("attn_out.1", "mlp_out.1")]),
        ("embeddings+mlp_out.0-2:2", [("embeddings", "mlp_out.0"), ("embeddings", "mlp_out.2")]),
    ],
)
def test_plus_joins_points_of_one_coder(expression: str, expected: list[tuple[str, ...]]) -> None:
    assert HERE.groups(expression) == expected


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("mlp_in.12", "mlp_in.12 is not in the store acts, which has mlp_in.0-11"),
        ("mlp_in.8-13", "mlp_in.12 is not in the store acts, which has mlp_in.0-11"),
        ("mlp_in.8-99999999999", "mlp_in.12 is not in the store acts"),
        ("resid_post.0-10", "resid_post.1 is not in the store acts, which has resid_post.0-9:3, resid_post.10"),
        ("resid_pots.*", "the store acts has no resid_pots; nearest: resid_post"),
        ("resid_pots.1", "the store acts has no resid_pots; nearest: resid_post"),
        ("z.*", "it has embeddings, attn_out.0-11, mlp_in.0-11, mlp_out.0-11, resid_post"),
        ("embeddings.*", "embeddings has no layers; write embeddings"),
        ("mlp_in", "mlp_in is not in the store acts, which has mlp_in.0-11"),
        ("mlp_in.7-3", "begins at layer 7 and ends at 3; write mlp_in.3-7"),
        ("mlp_in.0-7:0", "steps by 0"),
        ("mlp_in.*.3", "is not a hook point; write resid_post.14"),
        ("mlp_in.-3", "is not a hook point"),
        ("*", "is not a hook point"),
        ("mlp_in.3++mlp_in.4", "'' is not a hook point"),
        ("resid_post.*+mlp_in.*", "resid_post.* is 5 points and another part 12"),
        ("mlp_in.3+mlp_in.3", "given twice: mlp_in.3"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_with_what_exists(expression: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        HERE.groups(expression)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_captured_points_are_neither_joined_nor_named_twice() -> None:
    with pytest.raises(UsageError, match=r"given twice: mlp_in\.3"):
        HERE.points("mlp_in.*,mlp_in.3")
    with pytest.raises(UsageError, match="list points with commas"):
        HERE.points("mlp_in.3+mlp_in.4")
    assert HERE.groups("mlp_in.3,mlp_in.3") == [("mlp_in.3",)] * 2, "two coders may read one point"


def test_where_nobody_knows_which_points_exist_single_ones_pass() -> None:
    unknown = PointNames(None, "the activations")
    assert unknown.groups("a.1+b.2,c") == [("a.1", "b.2"), ("c",)]
    with pytest.raises(UsageError, match="not known here; name the points one by one"):
        unknown.points("a.*")


@given(st.sets(st.sampled_from(NAMES)))
def test_condensed_points_expand_to_themselves(points: set[str]) -> None:
    assert set(HERE.points(condensed(points))) == points


@given(st.integers(0, 11), st.integers(0, 11), st.integers(1, 5))
def test_a_range_is_what_range_gives(a: int, b: int, step: int) -> None:
    first, last = min(a, b), max(a, b)
    expected = [f"mlp_in.{layer}" for layer in range(first, last + 1, step)]
    assert HERE.points(f"mlp_in.{first}-{last}:{step}") == expected


def test_common_layer() -> None:
    assert common_layer(["mlp_in.3", "mlp_out.3"]) == 3
    assert common_layer(["mlp_in.3", "mlp_out.4"]) is None
    assert common_layer(["embeddings"]) is None
    assert common_layer(["blocks.3.hook_resid_post"]) is None


def test_a_model_expands_its_own_points(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    assert lm.point_names.points("resid_post.*") == [f"resid_post.{layer}" for layer in range(3)]
    assert lm.point_names.points(lm.points()) == lm.points()
    # A single point that is not there gets the model's own reason.
    for wrong, says in (("q_norm_in.1", "has no q_norm"), ("resid_post.3", "its layers are 0 to 2")):
        with pytest.raises(SaescopeError, match=says):
            lm.point_names.points(wrong)
    with pytest.raises(UsageError, match=r"resid_post\.3 is not in tiny-llama, which has resid_post\.0-2"):
        lm.point_names.points("resid_post.1-3")
