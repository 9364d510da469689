"""Every number an evaluation reports: its name, what it means, how it is shown. Read by report, command line and docs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["reconstruction", "sparsity", "behaviour", "other conventions"]


@dataclass(frozen=True)
class Metric:
    """better: which way is good, where one is. digits: decimals shown. percent: shown times 100."""

    key: str
    label: str
    group: Group
    meaning: str
    better: Literal["lower", "higher", ""] = ""
    digits: int = 3
    percent: bool = False

    def format(self, value: float | None) -> str:
        return shown(value, self.digits, percent=self.percent)


def shown(value: float | None, digits: int, *, percent: bool = False) -> str:
    """A number as tables and reports print it: a dash where there is none, a true minus sign."""
    if value is None:
        return "–"
    text = f"{value * 100:.{max(digits - 2, 1)}f} %" if percent else f"{value:,.{digits}f}"
    return text.replace("-", "−")


METRICS: tuple[Metric, ...] = (
    Metric("fvu_centered", "FVU", "reconstruction", "Share of the activations' variance that is lost.", "lower"),
    Metric("explained_variance", "Explained variance", "reconstruction", "1 − FVU.", "higher"),
    Metric(
        "fvu_per_dim",
        "FVU per dimension",
        "reconstruction",
        "FVU with every dimension scaled to unit variance, so that a few huge dimensions cannot hide the rest.",
        "lower",
    ),
    Metric("cosine", "Cosine", "reconstruction", "Mean cosine between an activation and its reconstruction.", "higher"),
    Metric("l2_ratio", "Norm ratio", "reconstruction", "Mean ‖x̂‖/‖x‖; below 1 the reconstruction is too short."),
    Metric(
        "reconstruction_bias",
        "Reconstruction bias γ",
        "reconstruction",
        "E‖x̂‖² / E[x·x̂]: 1 is unbiased, below 1 means shrinkage.",
    ),
    Metric(
        "mse",
        "Squared error",
        "reconstruction",
        "Mean ‖x − x̂‖² per token, in the model's own units.",
        "lower",
        digits=1,
    ),
    Metric("mse_per_dim", "Squared error per dimension", "reconstruction", "The same divided by the width.", "lower"),
    Metric("l0", "L0", "sparsity", "Latents active on a token, on average.", digits=1),
    Metric("l1", "L1", "sparsity", "Mean sum of activations, decoder rows counted as unit vectors.", digits=1),
    Metric(
        "dead_fraction",
        "Dead latents",
        "sparsity",
        "Latents that never fired on the evaluation tokens; rare ones count as dead on a short text.",
        "lower",
        percent=True,
    ),
    Metric(
        "dense_10",
        "Dense latents",
        "sparsity",
        "Latents that fire on more than a tenth of all tokens.",
        "lower",
        percent=True,
    ),
    Metric(
        "ce_recovered_mean",
        "CE recovered (mean)",
        "behaviour",
        "Share of the model's prediction loss won back, against putting the mean activation in place.",
        "higher",
    ),
    Metric(
        "ce_recovered",
        "CE recovered (zero)",
        "behaviour",
        "The same against zeros, which damage the model more and so flatter the coder.",
        "higher",
    ),
    Metric("ce_increase", "CE increase", "behaviour", "Prediction loss added by the coder, in nats a token.", "lower"),
    Metric(
        "kl",
        "KL",
        "behaviour",
        "KL(model ‖ model with the coder in it), in nats a token; counts every change.",
        "lower",
    ),
    Metric("ce_orig", "CE, model", "behaviour", "The model's own prediction loss at these tokens."),
    Metric("ce_sae", "CE, spliced", "behaviour", "Its loss with the reconstruction in place.", "lower"),
    Metric("ce_mean", "CE, mean ablation", "behaviour", "Its loss with the mean training activation in place."),
    Metric("ce_zero", "CE, zero ablation", "behaviour", "Its loss with zeros in place."),
    Metric(
        "ev_batch_legacy",
        "EV, batch (legacy)",
        "other conventions",
        "Mean over tokens of 1 − ‖e‖²/‖x − x̄‖², x̄ the batch's mean; published by SAEBench and Neuronpedia.",
    ),
    Metric(
        "ev_uncentered",
        "EV, uncentred",
        "other conventions",
        "1 − Σ‖e‖²/Σ‖x‖²; high for anything that gets the mean right.",
    ),
    Metric(
        "ev_dl",
        "EV, error variance",
        "other conventions",
        "1 − Σvar(e)/Σvar(x), as in dictionary_learning; blind to a constant offset.",
    ),
)

BY_KEY = {metric.key: metric for metric in METRICS}

CONTROLS: dict[str, str] = {
    "frozen_random": "As many random directions, a threshold that gives the same L0, nothing trained.",
    "pca": "The top k principal components of training activations, k = the coder's L0.",
    "neurons": "The model's own dimensions: each token's k furthest from the mean, k = the coder's L0.",
}
