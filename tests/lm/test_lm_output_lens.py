"""The linear part of the final norm and the unembedding, for every family, against the model's own modules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from saescope.errors import ModelError
from saescope.lm import LanguageModel
from saescope.lm.output_lens import _balanced, _linear_part

LAYER_NORM = ("gpt2", "gpt_neox")


def test_logits_are_the_models_own_up_to_the_norms_size(family_lm: LanguageModel, tokens: torch.Tensor) -> None:
    """At any position logits = lens(residual)/size + the same constants everywhere: differences between two residuals of the
    same size, one the other's negative, remove the constants."""
    lens = family_lm.output_lens
    arch = family_lm._engine.arch
    x = torch.randn(6, family_lm.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        odd = (arch.lm_head(arch.final_norm(x)) - arch.lm_head(arch.final_norm(-x))) / 2
    centred = x - x.mean(1, keepdim=True) if lens.centred else x
    size = centred.square().mean(1, keepdim=True).sqrt()
    found = lens.before_unembedding(x) @ lens.unembedding.T / size
    torch.testing.assert_close(found, odd * lens.multiplier, rtol=1e-3, atol=1e-3)
    assert lens.centred == any(family_lm.name.endswith(name) for name in LAYER_NORM)


def test_gemmas_scale_is_one_more_than_its_weight(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("gemma2")
    assert lm.output_lens.soft_cap == 30.0
    scale = lm._engine.arch.final_norm.weight
    torch.testing.assert_close(lm.output_lens.scale, 1 + scale.detach().float(), rtol=1e-4, atol=1e-4)


def test_rows_beyond_the_tokenizer_are_left_out(build_lm: Callable[..., LanguageModel]) -> None:
    lm = build_lm("llama", vocab_size=120)
    assert lm.vocab_size == 120
    assert lm.output_lens.unembedding.shape[0] == len(lm.tokenizer) == 101


def test_a_model_in_bfloat16_has_its_scale_to_float32(build_lm: Callable[..., LanguageModel]) -> None:
    for family in ("gemma2", "gpt2", "llama"):
        whole, half = build_lm(family), build_lm(family, dtype=torch.bfloat16)
        torch.testing.assert_close(half.output_lens.scale, whole.output_lens.scale, rtol=0.01, atol=0.01)
        weight = half._engine.arch.final_norm.weight.detach().float()
        exact = 1 + weight if family == "gemma2" else weight
        torch.testing.assert_close(half.output_lens.scale, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [2, 3, 4, 7, 64, 65])
def test_probe_passes_a_norm_unchanged(width: int) -> None:
    probe = _balanced(width)
    assert float(probe.abs().min()) > 0.5
    torch.testing.assert_close(nn.LayerNorm(width, eps=0)(probe), probe)
    torch.testing.assert_close(nn.RMSNorm(width, eps=0)(probe), probe)


def test_another_kind_of_norm_is_refused() -> None:
    with pytest.raises(ModelError, match="no RMSNorm or LayerNorm"):
        _linear_part(nn.Tanh(), 8, "odd")


def test_which_points_are_read_out(tiny: Callable[[str], LanguageModel]) -> None:
    llama, gemma = tiny("llama"), tiny("gemma2")
    for point in ("resid_pre.1", "resid_mid.1", "resid_post.1", "mlp_out.1", "attn_out.1"):
        assert llama.lens_refusal(point) is None
    assert gemma.lens_refusal("mlp_out_post.1") is None
    assert "mlp_out_post is what it adds" in str(gemma.lens_refusal("mlp_out.1"))
    assert "not added to the residual stream" in str(llama.lens_refusal("z.1"))
