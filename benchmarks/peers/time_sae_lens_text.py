"""SAELens from text: `LanguageModelSAETrainingRunner.run` on tokenised text, model and tokens in memory beforehand.

Its buffer is set to pass batches on unshuffled: with any mixing it runs the model on more tokens than it trains on, which a
short run would be charged for. Nothing is normalised, evaluated, logged or saved.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig, TopKTrainingSAEConfig
from sae_lens.load_model import load_model
from timed_batches import LR

CLASS = "AutoModelForCausalLM"


class FromText:
    """A step is a run of `tokens` tokens."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.tokens, self._spec = spec["tokens"], spec
        self._sequences = np.load(spec["tokens_file"])
        self._hook = f"model.layers.{spec['layer']}"
        self._model = load_model(CLASS, spec["model"], device="cpu", hook_names=[self._hook])
        self._runner: Any = None
        self._run = 0

    def load(self) -> None:
        spec = self._spec
        # Every run starts at another sequence, as no text is seen twice.
        rows = np.roll(self._sequences, -self._run * self.tokens // self._sequences.shape[1], axis=0)
        self._run += 1
        config = LanguageModelSAERunnerConfig(
            sae=TopKTrainingSAEConfig(d_in=spec["d_in"], d_sae=spec["d_sae"], k=spec["k"]),
            model_name=spec["model"],
            model_class_name=CLASS,
            hook_name=self._hook,
            dataset_path="in memory",
            is_dataset_tokenized=True,
            streaming=False,
            context_size=rows.shape[1],
            prepend_bos=False,
            training_tokens=self.tokens,
            train_batch_size_tokens=spec["batch"],
            store_batch_size_prompts=spec["batch"] // rows.shape[1],
            n_batches_in_buffer=spec["batch"] // rows.shape[1],
            activations_mixing_fraction=0.0,
            lr=LR,
            autocast=spec["autocast"],
            autocast_lm=spec["autocast"],
            logger=LoggingConfig(log_to_wandb=False),
            checkpoint_path=None,
            output_path=None,
            verbose=False,
        )
        dataset = Dataset.from_dict({"input_ids": rows.tolist()})
        self._runner = LanguageModelSAETrainingRunner(config, override_dataset=dataset, override_model=self._model)

    def step(self) -> None:
        self._runner.run()

    def ask(self) -> dict[str, Any]:
        return {}


make = FromText
