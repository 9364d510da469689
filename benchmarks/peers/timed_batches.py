"""What every library is timed on: the same batches in the same order, and the same latents counted as dead."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from exported import Exported
from torch import Tensor
from trained import Task

# Schedules are of a long run held at its middle: full learning rate, and no latent silent for long enough to be dead.
RUN_STEPS = 100_000
LR = 1e-3
SYNTHETIC_BATCHES = 4
# Of the penalties. L0 does not fall to k within the few steps that are timed; the peers' steps, dense products, take as long
# at any L0.
COEFFICIENTS = {"jumprelu": 30.0, "standard": 30.0, "gated": 30.0}


def batches(spec: dict[str, Any]) -> Iterator[Tensor]:
    """float32 [batch, width] on the spec's device, forever; with `synthetic`, a width, sparse sums of random directions."""
    if spec.get("synthetic"):
        return itertools.cycle([_synthetic(spec, number) for number in range(SYNTHETIC_BATCHES)])
    data = Exported(Path(spec["data"]))
    rows, order = data.train(spec["point"]), data.order(spec["seed"], data.steps(1)).flatten()
    size = spec["batch"]
    steps = order[: len(order) // size * size].view(-1, size)
    return (rows.take(step).to(spec.get("device", "cpu")) for step in itertools.cycle(steps))


def _synthetic(spec: dict[str, Any], number: int) -> Tensor:
    generator = torch.Generator().manual_seed(spec["seed"])
    directions = torch.randn(4096, spec["synthetic"], generator=generator)
    chosen = torch.randint(0, 4096, (spec["batch"], 20), generator=torch.Generator().manual_seed(number))
    return torch.nn.functional.embedding_bag(chosen, directions, mode="sum").to(spec.get("device", "cpu"))


def task_of(library: str, spec: dict[str, Any]) -> Task:
    """The spec in the terms of the quality runs, whose settings are timed."""
    return Task(
        library,
        spec["arch"],
        spec["point"],
        spec["point"],
        passes=1,
        seed=spec["seed"],
        lr=LR,
        d_sae=spec["d_sae"],
        l0=spec["k"],
        coefficient=COEFFICIENTS.get(spec["arch"]),
    )


class Silenced:
    """The first latents, kept from firing so that they can be counted as dead: their encoder weights are put back to a
    hundredth of their first values before every step. `encoder` [d_sae, d_in], any strides."""

    def __init__(self, encoder: Tensor, share: float) -> None:
        self.count = round(share * len(encoder))
        self._weights = encoder
        self._small = encoder.detach()[: self.count].clone() / 100

    @torch.no_grad()
    def restore(self) -> None:
        if self.count:
            self._weights[: self.count] = self._small
