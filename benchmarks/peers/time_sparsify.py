"""sparsify: steps of its own `Trainer.fit`, held between any two of them.

`fit` cannot be called a step at a time, so it runs in a thread of its own and waits in its dataset until the next step is
wanted; the step ends when it asks for the next item. Its model is the stand-in of the quality runs, on one batch in memory.
Adam, whose arithmetic is what the other libraries do. Its precision is its own: float32 on a processor, bfloat16 autocast on
CUDA.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from typing import Any

import torch
from of_sparsify import _Replay
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from timed_batches import LR, RUN_STEPS, Silenced, batches
from torch import Tensor

LONG_AGO = 10**12
AUX = 1 / 32


class _EndedError(Exception):
    pass


class _Held:
    """The trainer's dataset: an item is handed out when `go` says so. It is also the stand-in model's store of rows."""

    def __init__(self, batch: Tensor) -> None:
        self.batch = batch
        self.go: queue.Queue[bool] = queue.Queue()
        self.asked: queue.Queue[bool] = queue.Queue()
        self._rows = torch.arange(len(batch))

    def __len__(self) -> int:
        return RUN_STEPS

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        self.asked.put(True)
        if not self.go.get():
            raise _EndedError
        return {"input_ids": self._rows}

    def take(self, rows: Tensor) -> Tensor:
        return self.batch if rows.numel() == len(self.batch) else self.batch[rows]


class Sparsify:
    def __init__(self, spec: dict[str, Any]) -> None:
        if spec["arch"] != "topk" or spec["autocast"]:
            raise ValueError("sparsify has TopK only, and chooses its precision by the device")
        self.tokens, self._k = spec["batch"], spec["k"]
        self._batches = batches(spec)
        self._held = _Held(next(self._batches))
        self._folder = tempfile.TemporaryDirectory()
        config = TrainConfig(
            SparseCoderConfig(num_latents=spec["d_sae"], k=spec["k"]),
            batch_size=1,
            optimizer="adam",
            lr=LR,
            lr_warmup_steps=0,
            auxk_alpha=AUX if spec["dead"] else 0.0,
            hookpoints=["point"],
            init_seeds=[spec["seed"]],
            save_every=10**9,
            log_to_wandb=False,
            save_dir=self._folder.name,
            run_name="run",
        )
        model = _Replay(self._held, None)
        model.device = torch.device(spec.get("device", "cpu"))
        self.trainer = Trainer(config, self._held, model)
        self._silenced = Silenced(self.trainer.saes["point"].encoder.weight, spec["dead"])
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()
        self._wait()

    def _fit(self) -> None:
        try:
            self.trainer.fit()
        except _EndedError:
            pass
        except BaseException as error:  # handed to whoever waits for the step
            self._failure = error
        self._held.asked.put(False)

    def _wait(self) -> None:
        if not self._held.asked.get():
            raise RuntimeError("the trainer ended by itself") from self._failure

    def load(self) -> None:
        self._held.batch = next(self._batches)
        self._silenced.restore()
        self.trainer.num_tokens_since_fired["point"][: self._silenced.count] = LONG_AGO

    def step(self) -> None:
        self._held.go.put(True)
        self._wait()

    def ask(self) -> dict[str, Any]:
        silent = self.trainer.num_tokens_since_fired["point"]
        return {"l0": float(self._k), "dead": int((silent > self.trainer.cfg.dead_feature_threshold).sum())}

    def close(self) -> None:
        self._held.go.put(False)
        self._thread.join()
        self._folder.cleanup()


make = Sparsify
