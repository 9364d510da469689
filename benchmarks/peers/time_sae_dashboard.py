"""SAEDashboard's feature dashboards, timed on request; see `timed` for the requests.

    PEER_PYTHON time_sae_dashboard.py [--threads 1]

A step is one `SaeVisRunner.run` on the next `features` features, its settings the library's own, the model's activations kept
in its cache so that they are computed once for all features; `forward` instead times a run on one feature that has to compute
them. Seconds are the processor's. Writing HTML is not timed.

TransformerLens knows no SmolLM2. A model of its shape is made here and filled by TransformerLens's own conversion of Llama's
weights; `ask` tells how far its residual stream is from the one that Hugging Face's model gave.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timed import Subject, processor_seconds, serve


class Dashboards:
    """spec: coder, model (folders), tokens [sequences, context] and reference [context, d] (`.npy` files; the reference is the
    residual stream of the first sequence), special (ids), layer, features (a step), cache (a folder), part: "forward", which
    fills the cache, or "features", which needs it filled."""

    def __init__(self, spec: dict[str, Any]) -> None:
        from sae_dashboard.sae_vis_data import SaeVisConfig
        from sae_dashboard.sae_vis_runner import SaeVisRunner
        from sae_lens import SAE

        self._spec = spec
        self._hook = f"blocks.{spec['layer']}.hook_resid_post"
        self._rows = torch.from_numpy(np.load(spec["tokens"]))
        self.tokens = self._rows.numel()
        self._model = _model(spec["model"])
        self._coder = SAE.load_from_disk(spec["coder"])
        self._order = itertools.cycle(torch.randperm(self._coder.cfg.d_sae, generator=_seeded()).tolist())
        self._cache = Path(spec["cache"])
        self._config, self._runner = SaeVisConfig, SaeVisRunner
        self._features: list[int] = []

    def load(self) -> None:
        if self._spec["part"] == "forward":
            shutil.rmtree(self._cache, ignore_errors=True)
        count = self._spec["features"] if self._spec["part"] == "features" else 1
        self._features = list(itertools.islice(self._order, count))

    def step(self) -> float:
        return processor_seconds(lambda: self._run(self._features))

    def _run(self, features: list[int]) -> None:
        config = self._config(
            hook_point=self._hook,
            features=features,
            ignore_tokens=set(self._spec["special"]),
            cache_dir=self._cache,
            device="cpu",
            dtype="float32",
        )
        self._made = self._runner(config).run(encoder=self._coder, model=self._model, tokens=self._rows)

    def ask(self) -> dict[str, Any]:
        _, cache = self._model.run_with_cache(self._rows[:1], names_filter=self._hook)
        reference = torch.from_numpy(np.load(self._spec["reference"]))
        # Positions that a reference marks as left out (attention sinks) are of another size and left out here too.
        counted = torch.isfinite(reference).all(1)
        there, here = reference[counted], cache[self._hook][0].float()[counted]
        sequences = self._made.cfg.feature_centric_layout.seq_cfg
        return {
            "residual_difference": float((here - there).norm() / there.norm()),
            "class": type(self._coder).__name__,
            "minibatch_features": self._made.cfg.minibatch_size_features,
            "minibatch_sequences": self._made.cfg.minibatch_size_tokens,
            "examples": f"{sequences.top_acts_group_size} top, {sequences.n_quantiles} quantiles of "
            f"{sequences.quantile_group_size}, {sequences.buffer[0]} tokens before and {sequences.buffer[1]} after",
            "computes": "logits of all tokens and their histogram, top and bottom logits, histogram of activations, quantiles, "
            "alignment and correlation with neurons, correlation with the features of the same minibatch",
        }


@cache
def _model(folder: str) -> Any:
    return hooked(Path(folder))


def hooked(folder: Path) -> Any:
    """A Hugging Face Llama-like model of a folder as SAELens's HookedTransformer, its weights as they are."""
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights
    from transformers import AutoModelForCausalLM

    read = json.loads((folder / "config.json").read_text())
    config = HookedTransformerConfig(
        model_name="SmolLM2",
        n_layers=read["num_hidden_layers"],
        d_model=read["hidden_size"],
        n_heads=read["num_attention_heads"],
        n_key_value_heads=read["num_key_value_heads"],
        d_head=read["head_dim"],
        d_mlp=read["intermediate_size"],
        d_vocab=read["vocab_size"],
        n_ctx=1024,
        act_fn=read["hidden_act"],
        eps=read["rms_norm_eps"],
        normalization_type="RMS",
        final_rms=True,
        gated_mlp=True,
        positional_embedding_type="rotary",
        rotary_base=round(read["rope_parameters"]["rope_theta"]),
        rotary_dim=read["head_dim"],
        rotary_adjacent_pairs=False,
        original_architecture="LlamaForCausalLM",
        dtype=torch.float32,
        device="cpu",
        default_prepend_bos=False,
    )
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # No tokenizer: it is needed for HTML only.
    model = HookedSAETransformer(config)
    model.load_and_process_state_dict(
        convert_llama_weights(weights, config), fold_ln=False, center_writing_weights=False, center_unembed=False,
        fold_value_biases=False,
    )  # fmt: skip
    return model.eval()


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="default: torch's own choice")
    given = parser.parse_args()

    def make(spec: dict[str, Any]) -> Subject:
        return Dashboards(spec)

    serve(make, ["sae-dashboard", "sae-lens", "transformer-lens", "transformers"], given.threads)


if __name__ == "__main__":
    main()
