"""The formats: one table, which detection, the command line and the docs read."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from saescope.errors import UsageError, nearest


@dataclass(frozen=True)
class Format:
    """One row. files: what a folder is known by. reads: which coders. writes: which coders can be exported, "" for none.
    module: its file in this package, with `detect(source)`, `read(reading)` and, where it writes, `write(coder, folder)`."""

    name: str
    title: str
    files: str
    reads: str
    writes: str
    module: str

    def load(self) -> ModuleType:
        return importlib.import_module(f"saescope.coders.formats.{self.module}")


# In the order in which a source is asked whether it is of the format.
FORMATS: tuple[Format, ...] = (
    Format(
        "saescope",
        "saescope's own",
        "`saescope.json`, `cfg.json`, `sae_weights.safetensors`",
        "every coder",
        "every coder",
        "native",
    ),
    Format(
        "crosscoder",
        "Two-model crosscoders (ckkissane)",
        "`cfg.json`, `cc_weights.pt`",
        "ReLU crosscoders of one hook point in two models",
        "",
        "crosscoder",
    ),
    Format(
        "sparsify",
        "sparsify (EleutherAI)",
        "`cfg.json`, `sae.safetensors`",
        "TopK SAEs, transcoders, skip transcoders; `signed` ones as `abstopk`",
        "topk SAEs, transcoders and skip transcoders that write as many dimensions as they read",
        "sparsify",
    ),
    Format(
        "gemma_scope",
        "Gemma Scope 1",
        "`params.npz`",
        "JumpReLU SAEs and transcoders",
        "",
        "gemma_scope",
    ),
    Format(
        "gemma_scope_2",
        "Gemma Scope 2",
        "`config.json`, `params.safetensors`",
        "JumpReLU SAEs, transcoders, skip transcoders",
        "",
        "gemma_scope_2",
    ),
    Format(
        "llama_scope",
        "Llama Scope and Llamascopium",
        "`hyperparams.json`, `checkpoints/final.safetensors`; or `config.json`, `sae_weights.safetensors`",
        "JumpReLU, TopK and ReLU SAEs and transcoders",
        "",
        "llama_scope",
    ),
    Format(
        "dictionary_learning",
        "dictionary_learning",
        "`config.json`, `ae.pt`",
        "AutoEncoder, AutoEncoderNew, Gated, TopK, BatchTopK, Matryoshka, JumpReLU",
        "standard, gated, topk and jumprelu SAEs",
        "dictionary_learning",
    ),
    Format(
        "openai",
        "OpenAI's GPT-2 autoencoders",
        "`{layer}.pt`",
        "TopK with LayerNorm (v5), ReLU (v1, v4)",
        "",
        "openai",
    ),
    Format(
        "circuit_tracer",
        "circuit-tracer's per-layer transcoders",
        "`config.yaml`, `layer_{i}.safetensors`",
        "ReLU, JumpReLU and TopK transcoders, with or without a skip connection",
        "",
        "circuit_tracer",
    ),
    Format(
        "sae_lens",
        "SAELens, version 6 and before",
        "`cfg.json`, `sae_weights.safetensors`",
        "standard, gated, topk, abstopk, jumprelu, matching pursuit, ReLU and JumpReLU (skip) transcoders; not temporal",
        "what SAELens has: these",
        "sae_lens",
    ),
)
BY_NAME = {row.name: row for row in FORMATS}


def format_named(name: str, *, writes: bool = False) -> Format:
    """A row, or a `UsageError` that names the nearest. `writes`: only rows that can be exported to."""
    known = {row.name: row for row in FORMATS if row.writes or not writes}
    if name not in known:
        why = f"saescope reads {name} and does not write it" if name in BY_NAME else f"unknown format {name!r}"
        raise UsageError(f"{why}; there are {', '.join(known)}{nearest(name, known)}")
    return known[name]
