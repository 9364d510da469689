"""Coders of other tools in a model: spliced and measured like any other."""

from __future__ import annotations

import pytest
import torch
from tests.coders.conftest import OPTIONS
from tests.measured import POINT, RULE, D, documents, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.coders import Slice, SparseCoder, TokenNorm, make_architecture, splice
from saescope.evaluation import Subject, evaluate
from saescope.lm import Edit, LanguageModel


@pytest.fixture(scope="module")
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


@pytest.fixture
def tokens(lm: LanguageModel) -> torch.Tensor:
    return torch.randint(3, lm.vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))


def foreign(architecture: str, norm: str | None, reads: str = POINT, writes: str | None = None) -> SparseCoder:
    """Of random weights, 60 latents."""
    read = [Slice(point=reads, width=D)]
    write = [Slice(point=writes, width=D)] if writes else read
    options = make_architecture(architecture, 60, OPTIONS[architecture])
    coder = SparseCoder(options, read, write, token_norm=TokenNorm(norm) if norm else None)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        coder.W_dec.div_(coder.W_dec.norm(dim=1, keepdim=True))
        options.settle(coder)
    coder.metadata.kept_rule, coder.metadata.sequences = dict(RULE), {"context": 16}
    return coder.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("architecture", "norm"), [("topk", "layer_norm"), ("abstopk", None), ("matching_pursuit", "constant_norm_rescale")]
)
def test_a_spliced_coder_is_its_output_at_its_point(
    architecture: str, norm: str | None, lm: LanguageModel, tokens: torch.Tensor
) -> None:
    coder = foreign(architecture, norm)
    x = lm.run(tokens, capture=[POINT]).activations[POINT]
    put = lm.run(tokens, edits=[Edit(POINT, lambda *_: coder(x.flatten(0, 1)).view_as(x))], logits=True).logits
    torch.testing.assert_close(lm.run(tokens, edits=splice(coder), logits=True).logits, put)
    assert not torch.allclose(put, lm.run(tokens, logits=True).logits)


def test_a_transcoder_of_what_lies_inside_a_norm(lm: LanguageModel, tokens: torch.Tensor) -> None:
    """It reads a point that can only be read, and normalises it as the model's own norm does before its gain."""
    coder = foreign("topk", "rms_norm", "resid_mid.1", "mlp_out_post.1")
    run = lm.run(tokens, capture=["resid_mid.1", "mlp_in.1"])
    mid, mlp_in = run.activations["resid_mid.1"], run.activations["mlp_in.1"]
    gain = lm.hf_model.model.layers[1].post_attention_layernorm.weight
    torch.testing.assert_close(TokenNorm("rms_norm").apply(mid) * gain, mlp_in, rtol=1e-4, atol=1e-5)
    x_hat = coder(mid.flatten(0, 1)).view_as(mid)
    put = lm.run(tokens, edits=[Edit("mlp_out_post.1", lambda *_: x_hat)], logits=True).logits
    torch.testing.assert_close(lm.run(tokens, edits=splice(coder), logits=True).logits, put)


@pytest.mark.parametrize(
    ("architecture", "norm"), [("topk", "layer_norm"), ("abstopk", None), ("matching_pursuit", None)]
)
def test_evaluation_measures_it(architecture: str, norm: str | None, lm: LanguageModel) -> None:
    coder = foreign(architecture, norm)
    found = evaluate(Subject(coder), lm, documents(), resamples=20)[0].coder
    assert 0 < found["l0"] <= 4
    assert found["kl"] > 0
    x = lm.run(torch.arange(3, 40)[None], capture=[POINT]).activations[POINT][0]
    dense = coder.encode(x).dense()
    assert (dense < 0).any() == (architecture == "abstopk")
