"""SAELens: a step as its `SAETrainer.fit` does it, with the settings of the quality runs."""

from __future__ import annotations

from typing import Any

from of_sae_lens import CLASSES, _options
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from timed_batches import LR, RUN_STEPS, Silenced, batches, task_of
from torch import Tensor

NORM_BATCHES = 4
LONG_AGO = 1e9
# Its faster decoder in float32. Without rescaling by decoder norm, whose gradient torch does not have for sparse tensors.
SPARSE = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}


class SaeLens:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.tokens = spec["batch"]
        self._batches = batches(spec)
        first = next(self._batches)
        training_class, config_class = CLASSES[spec["arch"]]
        self.sae = training_class(
            config_class(
                d_in=first.shape[1],
                d_sae=spec["d_sae"],
                device=spec.get("device", "cpu"),
                normalize_activations="expected_average_only_in",
                **_options(task_of("sae_lens", spec), RUN_STEPS),
                **(SPARSE if spec.get("sparse") else {}),
            )
        )
        config = SAETrainerConfig(
            total_training_samples=RUN_STEPS * self.tokens,
            train_batch_size_samples=self.tokens,
            lr=LR,
            lr_end=LR,
            autocast=spec["autocast"],
            device=spec.get("device", "cpu"),
        )
        self.trainer = SAETrainer(config, self.sae, self._batches)
        self.trainer.activation_scaler.estimate_scaling_factor(first.shape[1], self._batches, NORM_BATCHES)
        self._silenced = Silenced(self.sae.W_enc.T, spec["dead"])
        self._batch = first
        self._active: Tensor | None = None

    def load(self) -> None:
        self._batch = next(self._batches)
        self._active = None
        self._silenced.restore()
        self.trainer.n_forward_passes_since_fired[: self._silenced.count] = LONG_AGO

    def step(self) -> None:
        # The loop of `fit`; what it does at intervals (logging, checkpoints) is left out, as it is for every library.
        self.trainer.maybe_reset_sparsity()
        self._active = self.trainer.step(self._batch).feature_acts.detach()
        self.trainer.n_training_steps += 1

    def ask(self) -> dict[str, Any]:
        assert self._active is not None, "no step yet"
        active = self._active.to_dense() if self._active.is_sparse else self._active
        return {"l0": float((active != 0).sum()) / self.tokens, "dead": int(self.trainer.dead_neurons.sum())}


make = SaeLens
