"""A small truth that tests of recovery and stability share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from saescope.coders import Codes, Slice, SparseCoder, make_architecture
from saescope.evaluation.seeding import seeded
from saescope.evaluation.synthetic import POINT, GroundTruth, MagnitudeConfig, Sample, SyntheticConfig, ZipfRates

RATE = 0.1


def config(**changes: Any) -> SyntheticConfig:
    """40 independent features of one rate in 20 dimensions."""
    base = {
        "n_features": 40,
        "d_in": 20,
        "rates": ZipfRates(exponent=0, highest=RATE, lowest=RATE),
        "magnitude": MagnitudeConfig(mean=3.0, spread=0.3),
        "bias": 1.0,
    }
    return SyntheticConfig(**base | changes)


def rows(truth: GroundTruth, n: int = 20_000, seed: int = 0) -> list[Sample]:
    return list(truth.samples(n, 4096, 99, seed))


def coder_with(W_dec: Tensor, b_dec: Tensor | None = None) -> SparseCoder:
    place = (Slice(point=POINT, width=W_dec.shape[1]),)
    coder = SparseCoder(make_architecture("jumprelu", W_dec.shape[0], {}), place, place).requires_grad_(False)
    coder.W_dec.copy_(W_dec)
    coder.W_enc_rows.copy_(W_dec)
    if b_dec is not None:
        coder.b_dec.copy_(b_dec)
    return coder.eval()


def true_codes(sample: Sample) -> Codes:
    return sample.features


def random_units(n: int, d: int, seed: int) -> Tensor:
    drawn = torch.randn(n, d, generator=seeded(98, seed))
    return drawn / drawn.norm(dim=1, keepdim=True)


def spread(samples: list[Sample]) -> Iterator[float]:
    """Σ‖x - x̄‖² and Σ‖x‖²."""
    x = torch.cat([sample.x for sample in samples]).double()
    yield float((x - x.mean(0)).square().sum())
    yield float(x.square().sum())
