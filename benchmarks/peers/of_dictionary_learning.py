"""dictionary_learning: its own `trainSAE` and trainers, with the settings of its demo scaled to the run.

Activations are divided by the root of their mean squared norm, as its `normalize_activations` does, which it undoes in the
weights at the end. bfloat16 autocast, which it recommends; it switches that on for CUDA only, so here it is switched on
around each step as there. Left at its defaults: aux 1/32, k_aux d/2, gradient clipping 1, betas, decoder norm 1,
geometric-median bias.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from exported import Batches, Exported
from torch import Tensor
from trained import Task, Trained

WARMUP, SPARSITY_WARMUP, DECAY, DEAD_AFTER = 0.05, 0.2, 0.2, 0.1
FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4)

TRAINERS = {
    "topk": ("top_k", "TopKTrainer"),
    "batchtopk": ("batch_top_k", "BatchTopKTrainer"),
    "matryoshka": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer"),
    "jumprelu": ("jumprelu", "JumpReluTrainer"),
    "gated": ("gdm", "GatedSAETrainer"),
    "standard": ("standard", "StandardTrainer"),
}


def _without_nnsight() -> None:
    """Its activation buffer and evaluation import nnsight to run language models; neither is used here."""
    stub = ModuleType("nnsight")
    stub.LanguageModel = object
    sys.modules.setdefault("nnsight", stub)


def train(task: Task, data: Exported) -> Trained:
    _without_nnsight()
    from dictionary_learning.training import trainSAE

    if task.reads != task.writes:
        raise ValueError("dictionary_learning's trainers here are autoencoders only")
    n_steps = data.steps(task.passes)
    batches = Batches(data.train(task.reads), data.order(task.seed, n_steps))
    made: list[Any] = []
    settings = _settings(task, n_steps)
    config = {
        "trainer": _maker(task.arch, round(DEAD_AFTER * n_steps) * batches.batch_size, made),
        "steps": n_steps,
        "activation_dim": data.width(task.reads),
        "dict_size": task.d_sae,
        "layer": 0,
        "lm_name": "stored activations",
        "lr": task.lr,
        "seed": task.seed,
        "device": "cpu",
        **settings,
    }
    trainSAE(batches, [config], n_steps, normalize_activations=True, device="cpu")
    return _trained(task, made[0].ae.float(), settings | _common(n_steps))


def _common(n_steps: int) -> dict[str, Any]:
    return {
        "dead_after_steps": round(DEAD_AFTER * n_steps),
        "normalisation": "unit mean squared norm",
        "precision": "bfloat16 autocast",
    }


def _settings(task: Task, n_steps: int) -> dict[str, Any]:
    """The demo's settings, step counts as shares of this run."""
    schedule = {"warmup_steps": round(WARMUP * n_steps), "decay_start": round((1 - DECAY) * n_steps)}
    if task.arch in ("topk", "batchtopk", "matryoshka"):
        found = schedule | {"k": task.l0, "threshold_start_step": round(WARMUP * n_steps)}
        if task.arch == "matryoshka":
            found["group_fractions"] = [*FRACTIONS, 1 - sum(FRACTIONS)]
        return found
    schedule["sparsity_warmup_steps"] = round(SPARSITY_WARMUP * n_steps)
    if task.arch == "jumprelu":
        return schedule | {"target_l0": float(task.l0), "sparsity_penalty": task.coefficient or 1.0}
    if task.coefficient is None:
        raise ValueError(f"{task.arch} needs --coefficient, its L1 penalty")
    return schedule | {"l1_penalty": task.coefficient}


def _maker(arch: str, dead_after: int, made: list[Any]) -> Callable[..., Any]:
    """Its trainer, with "dead" after a share of this run's tokens instead of 10 million, each step under autocast."""
    module, name = TRAINERS[arch]
    kind = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), name)

    class Autocast(kind):
        def update(self, step: int, x: Tensor) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().update(step, x)

    def make(**config: Any) -> Any:
        trainer = Autocast(**config)
        trainer.dead_feature_threshold = dead_after
        made.append(trainer)
        return trainer

    return make


def _trained(task: Task, ae: Any, settings: dict[str, Any]) -> Trained:
    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = ae.encode(x)
        return latents, ae.decode(latents)

    def set_threshold(value: float) -> None:
        ae.threshold.fill_(value)

    if task.arch in ("matryoshka", "jumprelu"):
        weights = {"W_enc": ae.W_enc, "b_enc": ae.b_enc, "W_dec": ae.W_dec, "b_dec": ae.b_dec}
    else:
        b_dec = {"gated": "decoder_bias", "standard": "bias"}.get(task.arch, "b_dec")
        weights = {"W_enc": ae.encoder.weight.T, "W_dec": ae.decoder.weight.T, "b_dec": getattr(ae, b_dec)}
    if task.arch == "gated":
        weights |= {"b_gate": ae.gate_bias, "b_mag": ae.mag_bias, "r_mag": ae.r_mag}
    elif "b_enc" not in weights:
        weights["b_enc"] = ae.encoder.bias
    if task.arch in ("batchtopk", "matryoshka", "jumprelu"):
        weights["threshold"] = ae.threshold
    selection = {"topk": "topk", "gated": "gated", "standard": "relu"}.get(task.arch, "threshold")
    settable = set_threshold if task.arch in ("batchtopk", "matryoshka") else None
    return Trained(reconstruct, weights, selection, task.arch != "jumprelu", settings, settable)
