"""Tiny random models of every family, and the real SmolLM2."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
)

from saescope.lm import LanguageModel

VOCAB = 101
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 24}
# Windows shorter than the test sequences, so that banded attention is exercised; head_dim away from 32 / 4.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "mixtral": {"sliding_window": None, **_EXPERTS},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, **_EXPERTS},
    "gemma2": {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "n_inner": 48},
    "gpt_neox": {"rotary_pct": 0.5, "use_parallel_residual": True},
    "olmo2": {},
    "phi3": {"sliding_window": None},
}
WITHOUT_GROUPED_HEADS = ("gpt2", "gpt_neox")


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<bos>", "<eos>", *(f"w{number}" for number in range(3, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<pad>"
    )


def build(family: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> LanguageModel:
    """A random model whose every parameter, norms included, is far from its initial special value."""
    torch.manual_seed(0)
    settings = {**_COMMON, **FAMILIES.get(family, {}), **changes}
    if family in WITHOUT_GROUPED_HEADS:
        del settings["num_key_value_heads"]
    config = AutoConfig.for_model(family, **settings)
    hf_model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return LanguageModel.from_hf(hf_model.to(dtype), _tokenizer(), name=f"tiny-{family}")


@pytest.fixture(scope="session")
def build_lm() -> Callable[..., LanguageModel]:
    return build


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], LanguageModel]:
    """`tiny("llama")`, built once; tests must leave it as they found it."""
    return cache(build)


@pytest.fixture(params=list(FAMILIES))
def family_lm(request: pytest.FixtureRequest, tiny: Callable[[str], LanguageModel]) -> LanguageModel:
    return tiny(request.param)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    return LanguageModel.load("smollm2", dtype="float32", device="cpu")
