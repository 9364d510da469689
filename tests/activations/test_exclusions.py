"""Special tokens and sinks are left out, for the reason recorded."""

from __future__ import annotations

import pytest
import torch

from saescope.activations import KeptRule
from saescope.errors import StoreError, UsageError

TOKENS = torch.tensor([[1, 5, 6, 7], [5, 6, -1, -1]])


def activations_of(norms: list[list[float]]) -> torch.Tensor:
    """[batch, seq, 3] with these norms."""
    return torch.tensor(norms).unsqueeze(-1) * torch.tensor([2.0, 1.0, 2.0]) / 3


def test_reference_norm_is_the_median_over_ordinary_tokens_only() -> None:
    values = activations_of([[500.0, 1.0, 3.0, 2.0], [9.0, 4.0, 777.0, 777.0]])
    rule = KeptRule.measured([(TOKENS, {"p": values})], special_ids=[1])
    assert rule.reference_norm["p"] == pytest.approx(3.0)  # of 1, 2, 3, 4, 9


def test_a_position_goes_when_it_is_special_or_padding_or_long_at_any_point() -> None:
    rule = KeptRule(frozenset({1}), {"p": 1.0, "q": 2.0}, ratio=10.0)
    p = activations_of([[1.0, 10.0, 10.1, 1.0], [1.0, 1.0, 99.0, 99.0]])
    q = activations_of([[1.0, 20.0, 20.1, 1.0], [20.1, 1.0, 99.0, 99.0]])
    found = rule.exclusions(TOKENS, {"p": p, "q": q})
    assert found.kept.tolist() == [[False, True, False, True], [False, True, False, False]]
    assert found.special.sum() == 1
    assert {point: int(sinks.sum()) for point, sinks in found.sink.items()} == {"p": 1, "q": 2}
    assert found.any_sink.sum() == 2
    assert torch.equal(found.kept, rule.kept(TOKENS, {"p": p, "q": q}))


def test_padding_may_be_marked_by_a_mask_instead_of_minus_one() -> None:
    rule = KeptRule(frozenset({1}), {"p": 1.0})
    values = activations_of([[1.0] * 4] * 2)
    padded = TOKENS.clamp(min=0)
    assert torch.equal(rule.kept(padded, {"p": values}, real=TOKENS >= 0), rule.kept(TOKENS, {"p": values}))


def test_a_low_precision_norm_does_not_move_the_boundary() -> None:
    values = torch.full((1, 1, 4096), 0.156, dtype=torch.bfloat16)
    exact = float(values.double().norm())
    tokens = torch.tensor([[5]])
    assert bool(KeptRule(frozenset(), {"p": exact * 1.0001}, ratio=1.0).kept(tokens, {"p": values}))
    assert not bool(KeptRule(frozenset(), {"p": exact * 0.9999}, ratio=1.0).kept(tokens, {"p": values}))


def test_the_rule_survives_json() -> None:
    rule = KeptRule(frozenset({3, 1}), {"p": 0.1 + 0.2, "q": 1e30}, ratio=7.5)
    assert KeptRule.from_dict(rule.to_dict()) == rule
    assert rule.only(["q"]).reference_norm == {"q": 1e30}


def test_refusals() -> None:
    rule = KeptRule(frozenset(), {"p": 1.0, "q": 1.0})
    with pytest.raises(UsageError, match="needs q"):
        rule.kept(TOKENS, {"p": activations_of([[1.0] * 4] * 2)})
    with pytest.raises(UsageError, match="no reference norm was measured at r"):
        rule.only(["r"])
    with pytest.raises(StoreError, match="unreadable"):
        KeptRule.from_dict({"ratio": 1})
    with pytest.raises(StoreError, match="special tokens only"):
        KeptRule.measured([(torch.tensor([[1]]), {"p": torch.ones(1, 1, 3)})], special_ids=[1])
