"""Adding a feature: exact at its point, only at kept positions, only in its own row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.conftest import train_byte_tokenizer
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from saescope.activations import KeptRule
from saescope.coders import Slice, SparseCoder, TokenNorm, make_architecture
from saescope.errors import CoderError, UsageError
from saescope.lm import Edit, LanguageModel, Positions
from saescope.steering import AddFeature, added, continuation_perplexity

D, POINT = 32, "resid_post.1"


def model(dtype: torch.dtype = torch.float32) -> LanguageModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=400, hidden_size=D, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=0, bos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    hf_model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return LanguageModel.from_hf(hf_model.to(dtype), train_byte_tokenizer())


def coder(*writes: str, token_norm: TokenNorm | None = None) -> SparseCoder:
    parts = [Slice(point=point, width=D) for point in writes or (POINT,)]
    made = SparseCoder(make_architecture("topk", 20, {"k": 3}), parts, parts, token_norm=token_norm)
    with torch.no_grad():
        made.W_dec.copy_(torch.randn(made.W_dec.shape, generator=torch.Generator().manual_seed(1)))
    return made


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return model()


@pytest.fixture(scope="module")
def bf16() -> LanguageModel:
    return model(torch.bfloat16)


TOKENS = torch.tensor([[7, 8, 1, 9, 10, 11], [7, 8, 1, 9, 10, 11]])


def at(lm: LanguageModel, edits: list[Edit], point: str = POINT) -> Tensor:
    return lm.run(TOKENS, capture=[point], edits=edits).activations[point]


@pytest.mark.parametrize("which", ["lm", "bf16"])
def test_exactly_the_direction_is_added_at_the_point(which: str, request: pytest.FixtureRequest) -> None:
    lm, one = request.getfixturevalue(which), coder()
    before, after = at(lm, []), at(lm, added(one, 4, 1.5, maximum=2.0))
    delta = 1.5 * 2.0 * one.W_dec.detach()[4]
    assert torch.equal(after, (before.float() + delta).to(before.dtype))


@pytest.mark.parametrize("which", ["lm", "bf16"])
def test_strength_zero_is_the_identity_to_the_bit(which: str, request: pytest.FixtureRequest) -> None:
    lm, one = request.getfixturevalue(which), coder()
    plain, edited = (lm.run(TOKENS, edits=edits, logits=True).logits for edits in ([], added(one, 4, 0.0, maximum=2.0)))
    assert torch.equal(plain, edited)
    # Also the sign of a zero.
    zeros = torch.full((1, 2, D), -0.0)
    edit = added(one, 4, 0.0, maximum=2.0)[0]
    tokens = torch.tensor([[5, 6]])
    assert torch.signbit(edit.change(zeros, Positions.of(tokens, None))).all()


def test_the_baseline_row_is_unaffected_by_the_steered_one(bf16: LanguageModel) -> None:
    one = coder()
    alone = bf16.run(TOKENS, edits=added(one, 4, (0.0, 0.0), maximum=2.0), logits=True).logits
    both = bf16.run(TOKENS, edits=added(one, 4, (0.0, 3.0), maximum=2.0), logits=True).logits
    assert torch.equal(alone[0], both[0])
    assert not torch.equal(alone[1], both[1])
    unsteered = bf16.generate(TOKENS, max_new_tokens=8).tokens
    steered = bf16.generate(TOKENS, max_new_tokens=8, edits=added(one, 4, (0.0, 9.0), maximum=2.0)).tokens
    assert steered[0] == unsteered[0]
    assert steered[1] != unsteered[1]


def test_special_tokens_and_sinks_are_left_alone(lm: LanguageModel) -> None:
    one, before = coder(), at(lm, [])
    sizes = before.norm(dim=-1)[0]
    longest = int(sizes.argmax())
    limit = float(sizes.sort().values[-2:].mean())
    rule = KeptRule(frozenset({1}), {POINT: limit / 10}, ratio=10.0)
    moved = (at(lm, added(one, 4, 1.0, maximum=2.0, rule=rule)) != before).any(-1)
    expected = rule.kept(TOKENS, {POINT: before})
    assert torch.equal(moved, expected)
    assert expected.sum() == 2 * 4
    assert not expected[0, longest]


def test_a_sink_at_another_point_of_the_rule_is_left_alone_too(lm: LanguageModel) -> None:
    earlier, later = "resid_post.0", "resid_post.2"
    run = lm.run(TOKENS, capture=[earlier, POINT])
    sizes = run.activations[earlier].norm(dim=-1)[0]
    rule = KeptRule(frozenset(), {earlier: float(sizes.median()), later: 1e-9}, ratio=1.0)
    moved = (at(lm, added(coder(), 4, 1.0, maximum=2.0, rule=rule)) != run.activations[POINT]).any(-1)
    assert torch.equal(moved[0], sizes <= sizes.median())


def test_generation_keeps_to_the_rule_step_by_step(lm: LanguageModel) -> None:
    one = coder()
    rule = KeptRule(frozenset({1}), {POINT: 1e6})
    edits = added(one, 4, 2.0, maximum=2.0, rule=rule)
    prompt = TOKENS[:1]
    said = lm.generate(prompt, edits=edits, max_new_tokens=8).tokens[0]
    sequence = prompt[0].tolist()
    for token in said:
        logits = lm.run(torch.tensor([sequence]), edits=edits, logits=True).logits
        assert int(logits[0, -1].argmax()) == token
        sequence.append(token)


def test_the_report_measures_edit_and_residual(lm: LanguageModel) -> None:
    one, before = coder(), at(lm, [])
    adding = AddFeature(one, 4, (0.0, -1.5), maximum=2.0, rule=KeptRule(frozenset({1}), {}))
    assert math.isnan(adding.report.residual)
    lm.run(TOKENS, edits=adding.edits, capture=[POINT])
    kept = TOKENS != 1
    assert adding.report.edit == pytest.approx((0.0, 3.0 * float(one.W_dec.detach()[4].norm())))
    assert adding.report.residual == pytest.approx(float(before[kept].norm(dim=-1).mean()))
    assert adding.report.positions == 10


def test_every_point_that_a_coder_writes_gets_its_own_slice(lm: LanguageModel) -> None:
    points = ("resid_post.0", "mlp_out.2")
    one = coder(*points)
    plain = lm.run(TOKENS, capture=points).activations
    edits = added(one, 4, 1.0, maximum=2.0)
    first = lm.run(TOKENS, capture=points[:1], edits=edits[:1]).activations[points[0]]
    assert torch.equal(first, plain[points[0]] + 2.0 * one.W_dec[4, :D])
    second = lm.run(TOKENS, capture=points[1:], edits=edits[1:]).activations[points[1]]
    assert torch.equal(second, plain[points[1]] + 2.0 * one.W_dec[4, D:])


def test_which_positions_are_sinks_is_decided_before_the_first_edit(lm: LanguageModel) -> None:
    """However strong it is, the edit at the first point makes no sinks at the second, or at one in between."""
    points, between = ("resid_post.0", "resid_post.2"), "resid_post.1"
    one = coder(*points)
    plain = lm.run(TOKENS, capture=(*points, between)).activations
    norms = {point: float(plain[point].norm(dim=-1).median()) for point in (*points, between)}
    rule = KeptRule(frozenset(), norms, ratio=10.0)
    assert rule.kept(TOKENS, plain).all()
    edits = added(one, 4, 100.0, maximum=20.0, rule=rule)
    both = lm.run(TOKENS, capture=points, edits=edits).activations[points[1]]
    first = added(one, 4, 100.0, maximum=20.0, rule=rule.only([points[0]]))
    alone = lm.run(TOKENS, capture=points, edits=[edit for edit in first if edit.point == points[0]])
    torch.testing.assert_close(both, alone.activations[points[1]] + 2000.0 * one.W_dec.detach()[4, D:])


def test_numbers_of_other_libraries_are_strengths(lm: LanguageModel) -> None:
    one = coder()
    expected = at(lm, added(one, 4, 2.0, maximum=1.0))
    for strength in (np.float32(2), np.int64(2), np.array([2.0, 2.0], np.float32)):
        assert torch.equal(at(lm, added(one, 4, strength, maximum=1.0)), expected)


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm", "constant_norm_rescale"])
def test_a_coder_of_normalised_tokens_adds_in_each_tokens_scale(lm: LanguageModel, kind: str) -> None:
    """The same as decoding once with the feature at its strength and once without."""
    one, before = coder(token_norm=TokenNorm(kind)), at(lm, [])
    after = at(lm, added(one, 4, 1.5, maximum=2.0))
    x = before.flatten(0, 1)
    norm = TokenNorm(kind)
    base = torch.zeros_like(x)
    expected = norm.undo(base + 3.0 * one.W_dec.detach()[4], x) - norm.undo(base, x)
    torch.testing.assert_close((after - before).flatten(0, 1), expected, rtol=1e-4, atol=1e-4)


def test_nonsense_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(CoderError, match="feature 20 is not one of the coder's 20"):
        added(coder(), 20, 1.0, maximum=1.0)
    with pytest.raises(UsageError, match="must be numbers"):
        added(coder(), 1, math.nan, maximum=1.0)
    wide = [Slice(point=POINT, width=D + 8)]
    wider = SparseCoder(make_architecture("topk", 20, {"k": 3}), wide, wide)
    with pytest.raises(CoderError, match=f"writes 40 numbers at {POINT}, the model has 32 there; give its own model's"):
        at(lm, added(wider, 1, 1.0, maximum=1.0))
    with pytest.raises(UsageError, match="3 strengths were given for a batch of 2"):
        at(lm, added(coder(), 1, (1.0, 2.0, 3.0), maximum=1.0))


def test_perplexity_is_of_the_continuation_alone(lm: LanguageModel) -> None:
    prompt, continuation = [7, 8, 9], [10, 11]
    logits = lm.run(torch.tensor([prompt + continuation]), logits=True).logits[0].log_softmax(-1)
    by_hand = math.exp(-float(logits[2, 10] + logits[3, 11]) / 2)
    assert continuation_perplexity(lm, prompt, continuation) == pytest.approx(by_hand, rel=1e-5)
    assert continuation_perplexity(lm, prompt, []) is None
    with pytest.raises(UsageError, match="no tokens"):
        continuation_perplexity(lm, [], continuation)


def test_what_the_model_says_itself_perplexes_it_least(lm: LanguageModel) -> None:
    prompt = TOKENS[0].tolist()
    own, steered = lm.generate(TOKENS, max_new_tokens=8, edits=added(coder(), 4, (0.0, 9.0), maximum=2.0)).tokens
    mine, other = (continuation_perplexity(lm, prompt, said) for said in (own, steered))
    assert mine is not None
    assert other is not None
    assert mine < other
