"""From text to coder, timed: runs of `saescope.train` on a `ModelStream`, and the model alone as their limit.

Timed is a run from the first look at the text to its last optimiser step: tokenising, running the model, shuffling,
statistics, training. Not timed: loading the model, and what a run does once at its end however long it is (settling L0,
refitting, saving).
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timed import Subject
from timed_batches import LR

import saescope
from saescope import CoderConfig, Corpus, LanguageModel, ModelStream, TrainConfig
from saescope.activations.batches import Excerpt
from saescope.text import SequenceOptions

_models: dict[str, LanguageModel] = {}


def _model(spec: dict[str, Any]) -> LanguageModel:
    if spec["model"] not in _models:
        _models[spec["model"]] = LanguageModel.load(spec["model"], device="cpu")
    return _models[spec["model"]]


class FromText:
    """A step is a run of about `tokens` tokens with `coders` TopK coders."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.tokens, self._spec = spec["tokens"], spec
        self._lm, self._corpus = _model(spec), Corpus.open(spec["corpus"])
        coders = tuple(
            CoderConfig(
                name=f"coder-{seed}",
                arch="topk",
                d_sae=spec["d_sae"],
                options={"k": spec["k"]},
                reads=(spec["point"],),
                lr=LR,
                seed=seed,
            )
            for seed in range(spec["coders"])
        )
        # No latent is dead before the end, and nothing is measured or saved on the way, as with the peer.
        self._config = TrainConfig(
            coders=coders,
            batch_size=spec["batch"],
            dead_after=1,
            log_every=1,
            held_out_every=1,
            held_out_tokens=0,
            checkpoint_every=1,
        )

    def load(self) -> None:
        """Nothing beside the model has to be there."""

    def step(self) -> float:
        """Seconds to the last optimiser step."""
        spec, ended = self._spec, 0.0

        def watch(progress: saescope.training.trainer.Progress) -> None:
            nonlocal ended
            ended = time.perf_counter()

        started = time.perf_counter()
        source = ModelStream(
            self._lm,
            self._corpus,
            self._config.points,
            SequenceOptions(context=spec["context"]),
            tokens=spec["tokens"],
            batch_size=spec["batch"],
        )
        self.tokens = source.n_steps * spec["batch"]
        with tempfile.TemporaryDirectory() as folder:
            saescope.train(self._config, source, Path(folder) / "run", watcher=watch)
        source.close()
        return ended - started

    def ask(self) -> dict[str, Any]:
        return {"model_dtype": str(self._lm.dtype).removeprefix("torch.")}


class Forward:
    """A step runs the model to the hook point on one batch of text. Writes the text's tokens to `tokens_file`."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._lm, self._point = _model(spec), spec["point"]
        excerpt = Excerpt(
            self._lm, Corpus.open(spec["corpus"]), SequenceOptions(context=spec["context"]), spec["tokens"]
        )
        rows = [sequence.tokens for _, sequence in excerpt if len(sequence.tokens) == spec["context"]]
        sequences = np.stack(rows).astype(np.int64)
        np.save(spec["tokens_file"], sequences)
        size = spec["batch"] // spec["context"]
        whole = torch.from_numpy(sequences[: len(sequences) // size * size])
        self._batches = itertools.cycle(whole.view(-1, size, spec["context"]))
        self._batch = next(self._batches)
        self.tokens = self._batch.numel()

    def load(self) -> None:
        self._batch = next(self._batches)

    def step(self) -> None:
        self._lm.run(self._batch, capture=[self._point])

    def ask(self) -> dict[str, Any]:
        return {"model_dtype": str(self._lm.dtype).removeprefix("torch."), "d_in": self._lm.width(self._point)}


def make(spec: dict[str, Any]) -> Subject:
    return (FromText if spec["kind"] == "text" else Forward)(spec)
