"""SAELens: its own `SAETrainer.fit` and training classes; inference with the coder it saves and loads again.

Activations are scaled to mean norm sqrt(d) (`expected_average_only_in`), which it folds into the weights at the end. bfloat16
by its own `autocast`, unless float32 is asked for. JumpReLU with its settings after Anthropic (tanh penalty, bandwidth 2,
threshold .1, pre-activation loss), the coefficient warmed over the whole run. Left at its defaults: decoder norm .1 and tied
at the start, aux coefficient 1, rescaling by decoder norm, gradient clipping 1, betas.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from typing import Any

from exported import Batches, Exported
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor
from trained import Task, Trained

WARMUP, DECAY, DEAD_AFTER = 0.05, 0.2, 0.1
NORM_BATCHES = 100
FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4)

CLASSES = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "matryoshka": (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
}
SELECTION = {"topk": "topk", "gated": "gated", "standard": "relu"}


def train(task: Task, data: Exported) -> Trained:
    if task.reads != task.writes:
        raise ValueError("SAELens's training classes here are autoencoders only")
    n_steps = data.steps(task.passes)
    batches = Batches(data.train(task.reads), data.order(task.seed, n_steps))
    training_class, config_class = CLASSES[task.arch]
    sae = training_class(
        config_class(
            d_in=data.width(task.reads),
            d_sae=task.d_sae,
            normalize_activations="expected_average_only_in",
            **_options(task, n_steps),
        )
    )
    config = SAETrainerConfig(
        total_training_samples=n_steps * batches.batch_size,
        train_batch_size_samples=batches.batch_size,
        lr=task.lr,
        lr_end=task.lr / 10,
        lr_warm_up_steps=round(WARMUP * n_steps),
        lr_decay_steps=round(DECAY * n_steps),
        adam_beta1=task.beta1,
        autocast=task.precision == "bfloat16",
        dead_feature_window=round(DEAD_AFTER * n_steps),
    )
    trainer = SAETrainer(config, sae, iter(batches))
    # By itself it would take the first batches for this and train on the later ones only.
    trainer.activation_scaler.estimate_scaling_factor(sae.cfg.d_in, iter(batches), min(NORM_BATCHES, n_steps))
    trainer.fit()
    return _trained(task, sae, _settings(task, config, n_steps))


def _options(task: Task, n_steps: int) -> dict[str, Any]:
    """The architecture's own."""
    if task.arch in ("topk", "batchtopk"):
        return {"k": task.l0}
    if task.arch == "matryoshka":
        widths = [round(sum(FRACTIONS[: n + 1]) * task.d_sae) for n in range(len(FRACTIONS))]
        return {"k": task.l0, "matryoshka_widths": [*widths, task.d_sae]}
    if task.coefficient is None:
        raise ValueError(f"{task.arch} needs --coefficient, of its sparsity loss")
    if task.arch == "jumprelu":
        return {
            "jumprelu_sparsity_loss_mode": "tanh",
            "jumprelu_tanh_scale": 4.0,
            "jumprelu_bandwidth": 2.0,
            "jumprelu_init_threshold": 0.1,
            "jumprelu_ste_to_input": True,
            "pre_act_loss_coefficient": 3e-6,
            "l0_coefficient": task.coefficient,
            "l0_warm_up_steps": n_steps,
        }
    return {"l1_coefficient": task.coefficient, "l1_warm_up_steps": round(WARMUP * n_steps)}


def _settings(task: Task, config: SAETrainerConfig, n_steps: int) -> dict[str, Any]:
    kept = (
        "lr_scheduler_name",
        "lr_warm_up_steps",
        "lr_decay_steps",
        "dead_feature_window",
        "adam_beta1",
        "adam_beta2",
    )
    return {
        **_options(task, n_steps),
        **{name: value for name, value in asdict(config).items() if name in kept},
        "normalisation": "mean norm sqrt(d)",
        "precision": "bfloat16 autocast" if task.precision == "bfloat16" else "float32",
    }


def _trained(task: Task, sae: Any, settings: dict[str, Any]) -> Trained:
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        coder = SAE.load_from_disk(folder)

    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = coder.encode(x)
        return latents, coder.decode(latents)

    def set_threshold(value: float) -> None:
        coder.threshold.data.fill_(value)

    weights = {name: value for name, value in coder.state_dict().items() if value.is_floating_point()}
    selection = SELECTION.get(task.arch, "threshold")
    settable = set_threshold if task.arch in ("batchtopk", "matryoshka") else None
    return Trained(reconstruct, weights, selection, coder.cfg.apply_b_dec_to_input, settings, settable)
