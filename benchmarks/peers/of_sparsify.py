"""eai-sparsify: its own `Trainer`, which hooks a language model; here the model is a stand-in that replays stored rows.

Its `Trainer` offers Adam (warm-up, then linear decay to zero over the whole run) and Signum with schedule-free averaging,
its default. No input scaling: it trains on raw activations, with the batch's FVU as the loss. float32: its autocast is for
CUDA only.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from exported import Exported, Rows
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn
from trained import Task, Trained

WARMUP = 0.05


class _Point(nn.Module):
    """The hooked module: takes the rows read, gives the rows written, as [sequences, tokens, width]."""

    def __init__(self, writes: Rows | None) -> None:
        super().__init__()
        self.writes = writes

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        return x if self.writes is None else self.writes.take(rows).view(*x.shape[:-1], -1)


class _Replay(nn.Module):
    """Stands in for a language model: a batch's token ids are the numbers of the rows to replay."""

    device = torch.device("cpu")
    dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}  # noqa: RUF012 - transformers' name for it

    def __init__(self, reads: Rows, writes: Rows | None) -> None:
        super().__init__()
        self.reads = reads
        self.point = _Point(writes)

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        rows = input_ids.flatten()
        x = self.reads.take(rows).view(*input_ids.shape, -1)
        return self.point(x, rows)


class _Steps:
    """The trainer's dataset: one item a step."""

    def __init__(self, order: Tensor) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return {"input_ids": self.order[step]}


def train(task: Task, data: Exported) -> Trained:
    if task.arch != "topk":
        raise ValueError(f"sparsify has no {task.arch}")
    n_steps = data.steps(task.passes)
    transcode = task.reads != task.writes
    sae = SparseCoderConfig(num_latents=task.d_sae, k=task.l0, transcode=transcode, skip_connection=task.skip)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            sae,
            batch_size=1,
            optimizer=task.optimizer or "adam",
            lr=task.lr,
            lr_warmup_steps=round(WARMUP * n_steps),
            dead_feature_threshold=round(0.1 * n_steps) * 4096,
            hookpoints=["point"],
            init_seeds=[task.seed],
            save_every=10**9,
            log_to_wandb=False,
            save_dir=folder,
            run_name="run",
        )
        model = _Replay(data.train(task.reads), data.train(task.writes) if transcode else None)
        Trainer(config, _Steps(data.order(task.seed, n_steps)), model).fit()
        # What it saves is what it would be used as: schedule-free optimisers write their averaged weights.
        coder = SparseCoder.load_from_disk(Path(folder, "run", "point"))
    settings = {
        "optimizer": config.optimizer,
        "warmup_steps": config.lr_warmup_steps if config.optimizer == "adam" else None,
        "schedule": "linear decay over the whole run" if config.optimizer == "adam" else "schedule-free",
        "auxk_alpha": config.auxk_alpha,
        "normalisation": "none",
        "precision": "float32",
    }
    return _trained(coder, transcode, settings)


def _trained(coder: SparseCoder, transcode: bool, settings: dict) -> Trained:
    def reconstruct(x: Tensor) -> tuple[Tensor, Tensor]:
        encoded = coder.encode(x)
        dense = torch.zeros(len(x), coder.num_latents).scatter(1, encoded.top_indices, encoded.top_acts)
        out = coder.decode(encoded.top_acts, encoded.top_indices)
        return dense, out if coder.W_skip is None else out + x @ coder.W_skip.mT

    weights = {
        "W_enc": coder.encoder.weight.T,
        "b_enc": coder.encoder.bias,
        "W_dec": coder.W_dec,
        "b_dec": coder.b_dec,
    }
    if coder.W_skip is not None:
        weights["W_skip"] = coder.W_skip
    return Trained(reconstruct, weights, "topk", not transcode, settings)
