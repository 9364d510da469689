"""dictionary_learning: `trainer.update` on batches scaled as its `trainSAE` scales them, with the settings of the quality runs.

Its threshold is updated in every step, as it is in all but the first of a run.
"""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import torch
from of_dictionary_learning import TRAINERS, _settings, _without_nnsight
from timed_batches import LR, RUN_STEPS, Silenced, batches, task_of

LONG_AGO = 10**12


class DictionaryLearning:
    def __init__(self, spec: dict[str, Any]) -> None:
        _without_nnsight()
        self.tokens = spec["batch"]
        self._batches = batches(spec)
        self._batch = next(self._batches)
        self._norm = float(self._batch.pow(2).sum(1).mean().sqrt())
        module, name = TRAINERS[spec["arch"]]
        kind = getattr(importlib.import_module(f"dictionary_learning.trainers.{module}"), name)
        settings = _settings(task_of("dictionary_learning", spec), RUN_STEPS) | {"warmup_steps": 0}
        if "threshold_start_step" in settings:
            settings["threshold_start_step"] = 0
        self.trainer = kind(
            steps=RUN_STEPS,
            activation_dim=self._batch.shape[1],
            dict_size=spec["d_sae"],
            layer=0,
            lm_name="stored activations",
            lr=LR,
            seed=spec["seed"],
            device=spec.get("device", "cpu"),
            **settings,
        )
        self._autocast = (
            torch.autocast(spec.get("device", "cpu"), dtype=torch.bfloat16) if spec["autocast"] else nullcontext()
        )
        ae = self.trainer.ae
        self._silenced = Silenced(ae.W_enc.T if hasattr(ae, "W_enc") else ae.encoder.weight, spec["dead"])
        self._step = 0

    def load(self) -> None:
        self._batch = next(self._batches)
        self._silenced.restore()
        if self._silenced.count:
            self.trainer.num_tokens_since_fired[: self._silenced.count] = LONG_AGO

    def step(self) -> None:
        self._batch /= self._norm
        with self._autocast:
            self.trainer.update(self._step, self._batch)
        self._step += 1

    @torch.no_grad()
    def ask(self) -> dict[str, Any]:
        # As in training: chosen over the batch, not by the threshold.
        chosen = {"use_threshold": False} if hasattr(self.trainer, "threshold_beta") else {}
        with self._autocast:
            latents = self.trainer.ae.encode(self._batch, **chosen)
        return {
            "l0": float((latents != 0).sum()) / self.tokens,
            "dead": int(getattr(self.trainer, "dead_features", 0)),
        }


make = DictionaryLearning
