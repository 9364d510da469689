"""What the hook points mean, on every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saescope.errors import SaescopeError, UsageError
from saescope.lm import LanguageModel, Point


def residual_points(lm: LanguageModel) -> list[str]:
    names = ("resid_pre", "attn_out_post", "mlp_out_post", "resid_post")
    return [f"{name}.{layer}" for layer in range(lm.n_layers) for name in names]


def check_additive_identity(lm: LanguageModel, tokens: torch.Tensor) -> None:
    """To the last bit, in the order in which the model itself adds."""
    values = lm.run(tokens, capture=residual_points(lm)).activations
    parallel = "resid_mid.0" not in lm.points()
    for layer in range(lm.n_layers):
        pre, attn, mlp, post = (values[name] for name in residual_points(lm)[4 * layer : 4 * layer + 4])
        assert torch.equal((attn + mlp) + pre if parallel else (pre + attn) + mlp, post)
        assert attn.abs().max() > 0
        assert mlp.abs().max() > 0


def test_contributions_add_up_to_the_residual_stream(family_lm: LanguageModel, tokens: torch.Tensor) -> None:
    check_additive_identity(family_lm, tokens)


def test_sequential_neox_adds_in_order(build_lm: Callable[..., LanguageModel], tokens: torch.Tensor) -> None:
    lm = build_lm("gpt_neox", use_parallel_residual=False)
    assert "resid_mid.0" in lm.points()
    check_additive_identity(lm, tokens)


def test_scaled_contributions_add_up(build_lm: Callable[..., LanguageModel], tokens: torch.Tensor) -> None:
    lm = build_lm("granite", residual_multiplier=0.4)
    values = lm.run(tokens, capture=residual_points(lm)).activations
    for layer in range(lm.n_layers):
        total = sum(values[f"{name}.{layer}"] for name in ("resid_pre", "attn_out_post", "mlp_out_post"))
        torch.testing.assert_close(total, values[f"resid_post.{layer}"])


def test_resid_mid_is_the_stream_between_the_sublayers(family_lm: LanguageModel, tokens: torch.Tensor) -> None:
    if "resid_mid.1" not in family_lm.points():
        assert family_lm.name == "tiny-gpt_neox"
        return
    values = family_lm.run(tokens, capture=["resid_pre.1", "attn_out_post.1", "resid_mid.1"]).activations
    assert torch.equal(values["resid_pre.1"] + values["attn_out_post.1"], values["resid_mid.1"])


def test_captures_equal_an_uninstrumented_forwards_hidden_states(
    family_lm: LanguageModel, tokens: torch.Tensor
) -> None:
    with torch.no_grad():
        expected = family_lm.hf_model(tokens, output_hidden_states=True).hidden_states
    n = family_lm.n_layers
    pre = family_lm.run(tokens, capture=[f"resid_pre.{layer}" for layer in range(n)]).activations
    post = family_lm.run(tokens, capture=[f"resid_post.{layer}" for layer in range(n - 1)]).activations
    for layer in range(n):
        assert torch.equal(pre[f"resid_pre.{layer}"], expected[layer])
    for layer in range(n - 1):
        assert torch.equal(post[f"resid_post.{layer}"], expected[layer + 1])


def test_every_point_is_one_vector_per_token_of_the_stated_width(
    family_lm: LanguageModel, tokens: torch.Tensor
) -> None:
    # As many positions as heads is the one shape from which a transposed head axis cannot be told.
    for sequence in (tokens, tokens[:, :4], tokens[:1, :1]):
        values = family_lm.run(sequence, capture=family_lm.points(), logits=True).activations
        for name, value in values.items():
            if name.startswith("attn_probs") or name.startswith("attn_scores"):
                assert value.shape == (len(sequence), 4, sequence.shape[1], sequence.shape[1])
                with pytest.raises(UsageError, match="no width"):
                    family_lm.width(name)
            else:
                assert value.shape == (*sequence.shape, family_lm.width(name)), name


def test_values_are_causal_in_every_layout(family_lm: LanguageModel, tokens: torch.Tensor) -> None:
    """The first four positions of a longer text are what they are alone; a scrambled head axis would not be."""
    names = [name for name in family_lm.points() if not name.startswith(("attn_probs", "attn_scores", "expert_ind"))]
    long = family_lm.run(tokens, capture=names).activations
    short = family_lm.run(tokens[:, :4], capture=names).activations
    for name in names:
        torch.testing.assert_close(short[name], long[name][:, :4], rtol=1e-4, atol=1e-5, msg=name)


def test_packed_matrices_are_split_as_the_model_splits_them(family_lm: LanguageModel, tokens: torch.Tensor) -> None:
    """Attention is probabilities times values and an MLP is activation(pre) * linear, whatever packs them."""
    values = family_lm.run(tokens, capture=["value.1", "z.1", "attn_probs.1"]).activations
    batch, seq, _ = values["value.1"].shape
    kv_heads = 4 if family_lm.name in ("tiny-gpt2", "tiny-gpt_neox") else 2
    per_head = values["value.1"].reshape(batch, seq, kv_heads, -1).transpose(1, 2)
    mixed = values["attn_probs.1"] @ per_head.repeat_interleave(4 // kv_heads, 1)
    torch.testing.assert_close(mixed.transpose(1, 2).flatten(2), values["z.1"], rtol=1e-4, atol=1e-5)
    if "mlp_pre_linear.1" in family_lm.points():
        mlp = family_lm.run(tokens, capture=["mlp_pre.1", "mlp_pre_linear.1", "mlp_act.1"]).activations
        activation = torch.nn.functional.gelu if "gemma" in family_lm.name else torch.nn.functional.silu
        options = {"approximate": "tanh"} if "gemma" in family_lm.name else {}
        expected = activation(mlp["mlp_pre.1"], **options) * mlp["mlp_pre_linear.1"]
        torch.testing.assert_close(expected, mlp["mlp_act.1"], rtol=1e-5, atol=1e-6)


def test_attention_maps_come_from_the_softmax(family_lm: LanguageModel, tokens: torch.Tensor) -> None:
    before = family_lm.hf_model.config._attn_implementation
    run = family_lm.run(tokens, capture=["attn_probs.1", "attn_scores.1"])
    probabilities, scores = run.activations["attn_probs.1"], run.activations["attn_scores.1"]
    torch.testing.assert_close(scores.softmax(-1), probabilities, rtol=1e-5, atol=1e-6)
    assert torch.equal(probabilities.triu(1), torch.zeros_like(probabilities))
    assert family_lm.hf_model.config._attn_implementation == before


def test_a_point_reads_back_as_it_was_written() -> None:
    assert Point.parse("resid_post.14") == Point("resid_post", 14)
    assert Point.parse("embeddings") == Point("embeddings", None)
    assert str(Point.parse("resid_post.14")) == "resid_post.14"
    assert str(Point("embeddings")) == "embeddings"


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("resid_pots.1", "resid_post.1"),
        ("residpost.2", "resid_post.2"),
        ("resid_post", "resid_post.1"),
        ("resid_post.3", "resid_post.2"),
        ("embeddings.0", "embeddings"),
        ("embedings", "embeddings"),
        ("q_norm_in.1", "has no q_norm"),
        ("router_logits.0", "has no router"),
        ("model.layers.0.mlp", "NAME.LAYER"),
        ("Resid Post", "NAME.LAYER"),
        ("", "NAME.LAYER"),
    ],
)
def test_a_wrong_point_is_refused_in_one_line_with_the_nearest(
    tiny: Callable[[str], LanguageModel], text: str, offered: str
) -> None:
    lm = tiny("llama")
    for refuse in (lm.check_point, lm.width, lambda point: lm.run(torch.ones(1, 2).long(), capture=[point])):
        with pytest.raises(SaescopeError) as caught:
            refuse(text)
        assert text in str(caught.value)
        assert offered in str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.real
def test_smollm2s_contributions_add_up(smollm2: LanguageModel) -> None:
    tokens = torch.tensor([smollm2.tokenizer("The Eiffel Tower is in the city of Paris.")["input_ids"]])
    check_additive_identity(smollm2, tokens)


@pytest.mark.real
def test_smollm2s_captures_equal_its_hidden_states(smollm2: LanguageModel) -> None:
    tokens = torch.tensor([smollm2.tokenizer("The Eiffel Tower is in the city of Paris.")["input_ids"]])
    with torch.no_grad():
        expected = smollm2.hf_model(tokens, output_hidden_states=True).hidden_states
    values = smollm2.run(tokens, capture=["embeddings", *(f"resid_post.{layer}" for layer in range(29))]).activations
    for value, hidden in zip(values.values(), expected, strict=False):
        assert torch.equal(value, hidden)
