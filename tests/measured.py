"""A tiny model, coders whose numbers are known, and documents, for tests of evaluation, features and reports."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saescope.coders import Slice, SparseCoder, make_architecture
from saescope.lm import LanguageModel
from saescope.text import Document

D = 24
POINT = "resid_post.1"
RULE = {"special_ids": [0, 1, 2], "reference_norm": {}, "ratio": 10.0}


@cache
def tiny_lm(tokenizer: PreTrainedTokenizerFast, name: str = "tiny", seed: int = 0) -> LanguageModel:
    """A random Llama of three layers and width 24, whose predictions depend strongly on its residual stream."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=0,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.15)
    return LanguageModel.from_hf(model, tokenizer, name=name)


def coder_of(
    W_enc_rows: Float[Tensor, "d_sae d_in"],
    W_dec: Float[Tensor, "d_sae d_out"],
    *,
    b_dec: Float[Tensor, "d_out"] | None = None,
    threshold: float = 0.0,
    reads: str = POINT,
    writes: str | None = None,
    **metadata: Any,
) -> SparseCoder:
    """A JumpReLU coder with these weights."""
    read = Slice(point=reads, width=W_enc_rows.shape[1])
    write = Slice(point=writes or reads, width=W_dec.shape[1])
    coder = SparseCoder(make_architecture("jumprelu", W_dec.shape[0], {}), [read], [write])
    with torch.no_grad():
        coder.W_enc_rows.copy_(W_enc_rows)
        coder.W_dec.copy_(W_dec)
        if b_dec is not None:
            coder.b_dec.copy_(b_dec)
        coder.extra("threshold").fill_(threshold)
    for key, value in {"kept_rule": RULE, "sequences": {"context": 16}, **metadata}.items():
        setattr(coder.metadata, key, value)
    return coder.eval()


def identity_coder(d: int = D, **options: Any) -> SparseCoder:
    """x̂ = x: one latent for each direction of each axis."""
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    return coder_of(both, both, name="identity", **options)


def constant_coder(value: Float[Tensor, "d"], **options: Any) -> SparseCoder:
    """x̂ = value whatever comes in: no latent ever fires."""
    weights = torch.eye(value.numel())
    return coder_of(weights, weights, b_dec=value, threshold=1e9, name="constant", **options)


def random_coder(d_sae: int = 60, d: int = D, seed: int = 3, threshold: float = 0.5, **options: Any) -> SparseCoder:
    """Unit random directions, tied."""
    directions = torch.randn(d_sae, d, generator=torch.Generator().manual_seed(seed))
    directions /= directions.norm(dim=1, keepdim=True)
    return coder_of(directions, directions, threshold=threshold, **{"name": "random", **options})


_TEXT = "fox dog text token reads model quick lazy 2015 few bytes isn't 1,234 café the a of is over each and"
_WORDS = _TEXT.split()


def documents(n: int = 12, words: int = 40) -> list[Document]:
    """Short texts of common words, each its own."""
    made = []
    for number in range(n):
        generator = torch.Generator().manual_seed(number)
        chosen = torch.randint(len(_WORDS), (words,), generator=generator).tolist()
        made.append(Document(" ".join(_WORDS[index] for index in chosen), f"Document {number}", "test"))
    return made
