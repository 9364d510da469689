"""Whether a coder found the features that made its activations.

    f1                            each latent as a classifier of its best-cosine feature: 2·TP / (fires + feature fires),
                                  averaged over latents; a dead latent's is 0
    mcc                           mean |cosine| of latents and features under the pairing that makes it largest
    mmcs_latents_to_features      mean over latents of the largest cosine with a feature (many to one)
    mmcs_features_to_latents      mean over features of the largest cosine with a latent
    uniqueness                    distinct best-cosine features / latents

"Best-cosine" is signed: activations and features are non-negative, so a latent that points away from a feature does not
report it. Only `mcc` takes the absolute value, as published (Chanin & Garriga-Alonso, 2026). Beside these the usual
`fvu_centered`, `explained_variance`, `l0` and `dead_fraction` on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.coders import Codes, SparseCoder, decoder_norms
from saescope.evaluation.bootstrap import RESAMPLES, intervals
from saescope.evaluation.documents import DocumentSums
from saescope.evaluation.firing import FiringSums
from saescope.evaluation.matching import nearest, pairing
from saescope.evaluation.reconstruction import ReconstructionSums
from saescope.evaluation.resampling import mean_interval
from saescope.evaluation.synthetic.ground_truth import GroundTruth, Sample

# Rows are independent, so any cut is a natural unit; this many blocks stand for them.
_BLOCKS = 256

METRICS: dict[str, str] = {
    "f1": "Each latent as a classifier of its best-cosine feature; dead latents count 0.",
    "precision": "Of a latent's firings, the share where that feature is active; averaged over latents, dead = 0.",
    "recall": "Of that feature's firings, the share where the latent fires; averaged over latents, dead = 0.",
    "mcc": "Mean |cosine| of latents and features paired one to one.",
    "mmcs_latents_to_features": "Mean over latents of the largest cosine with a feature.",
    "mmcs_features_to_latents": "Mean over features of the largest cosine with a latent.",
    "uniqueness": "Distinct best-cosine features / latents.",
    "explained_variance": "1 − FVU.",
    "fvu_centered": "Share of the variance that is lost.",
    "l0": "Latents active on a row, on average.",
    "dead_fraction": "Latents that never fired on the measured rows.",
}


@dataclass(frozen=True)
class Recovery:
    """Numbers by `METRICS`' names, and their 95 % intervals: over latents (`mmcs_features_to_latents`: features, `mcc`:
    pairs, reconstruction and `l0`: rows). `f1_by_latent` [d_sae] and `best_feature` [d_sae] say where they come from."""

    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    f1_by_latent: Float[Tensor, "d_sae"]
    best_feature: Int[Tensor, "d_sae"]
    density: Float[Tensor, "d_sae"]

    def to_dict(self) -> dict[str, Any]:
        found = {name: list(value) if value is not None else None for name, value in self.intervals.items()}
        return self.metrics | {"intervals": found}


# What a coder under test does with a sample. An oracle looks at the features, others at x alone.
Encode = Callable[[Sample], Codes]


@torch.no_grad()
def recovery(
    coder: SparseCoder,
    truth: GroundTruth,
    samples: Iterable[Sample],
    *,
    encode: Encode | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Recovery:
    """Measure `coder` on `samples` of `truth`; `encode` replaces its encoder (the oracle's use)."""
    W_dec = coder.W_dec.detach()
    best = nearest(W_dec, truth.directions)
    counts = _Counts(best.index, truth.n_features)
    documents = DocumentSums(_BLOCKS)
    firing, reconstruction = FiringSums(decoder_norms(coder), documents), ReconstructionSums(coder.d_out, documents)
    for sample in samples:
        codes = (coder.encode(sample.x) if encode is None else encode(sample)).without_zeros()
        block = (firing.n_tokens + torch.arange(codes.n_tokens)) % _BLOCKS
        firing.update(codes, block)
        reconstruction.update(sample.x, coder.decode(codes, sample.x), block)
        counts.update(codes, sample.features)
    paired = pairing(W_dec, truth.directions, absolute=True)
    by_latent = counts.by_latent()
    units = {
        **by_latent,
        "mcc": paired.cosine,
        "mmcs_latents_to_features": best.cosine,
        "mmcs_features_to_latents": nearest(truth.directions, W_dec).cosine,
    }
    found: dict[str, float | None] = {name: float(value.double().mean()) for name, value in units.items()}
    found["uniqueness"] = best.index.unique().numel() / coder.d_sae
    measured = reconstruction.metrics() | firing.metrics()
    ranges = {name: mean_interval(value, resamples=resamples, seed=seed) for name, value in units.items()}
    by_rows = intervals(documents, resamples=resamples, seed=seed)
    lost = ranges["fvu_centered"] = by_rows["fvu_centered"]
    ranges["l0"] = by_rows["l0"]
    ranges["explained_variance"] = None if lost is None else (1 - lost[1], 1 - lost[0])
    return Recovery(
        {name: found.get(name, measured.get(name)) for name in METRICS},
        ranges,
        by_latent["f1"],
        best.index.cpu(),
        firing.density,
    )


class _Counts:
    """Where latents fire and where their best-cosine features do."""

    def __init__(self, best: Int[Tensor, "d_sae"], n_features: int) -> None:
        self.best, self.n_features = best, n_features
        self.both = torch.zeros(best.numel(), dtype=torch.int64)
        self.fires = torch.zeros(best.numel(), dtype=torch.int64)
        self.feature_fires = torch.zeros(n_features, dtype=torch.int64)

    def update(self, codes: Codes, features: Codes) -> None:
        """Both without entries of value zero."""
        wanted = codes.rows() * self.n_features + self.best[codes.indices]
        present = features.rows() * self.n_features + features.indices
        if present.numel():
            place = torch.searchsorted(present, wanted).clamp(max=present.numel() - 1)
            hit = codes.indices[present[place] == wanted]
            self.both += torch.bincount(hit, minlength=self.both.numel()).cpu()
        self.fires += torch.bincount(codes.indices, minlength=self.fires.numel()).cpu()
        self.feature_fires += torch.bincount(features.indices, minlength=self.n_features).cpu()

    def by_latent(self) -> dict[str, Float[Tensor, "d_sae"]]:
        """f1, precision and recall of every latent; 0 where it never fires or is never right."""
        both, fires = self.both.double(), self.fires.double()
        feature = self.feature_fires[self.best.cpu()].double()
        return {
            "f1": 2 * both / (fires + feature).clamp(min=1),
            "precision": both / fires.clamp(min=1),
            "recall": both / feature.clamp(min=1),
        }
