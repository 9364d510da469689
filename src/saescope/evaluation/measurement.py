"""One coder and its controls, measured side by side on the same batches."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.activations import Exclusions, KeptRule
from saescope.coders import decoder_norms
from saescope.evaluation import cross_entropy
from saescope.evaluation.bootstrap import intervals
from saescope.evaluation.controls import (
    Absent,
    Coded,
    OwnBasis,
    Projection,
    Reconstructor,
    frozen_random,
    mean_l0,
    neurons,
    pca,
)
from saescope.evaluation.cross_entropy import Predictions, SplicedRuns
from saescope.evaluation.definitions import CONTROLS
from saescope.evaluation.documents import DocumentSums
from saescope.evaluation.firing import FiringSums
from saescope.evaluation.geometry import nearest_cosine
from saescope.evaluation.histogram import cosine_histogram, log10_density_histogram
from saescope.evaluation.reconstruction import ReconstructionSums
from saescope.evaluation.subject import Subject
from saescope.features import FeatureContexts, Passages
from saescope.features.index import coder_fingerprint

# Random directions are alike everywhere, so a sample of them shows their cosines well enough.
_CONTROL_ROWS = 2048
Activations = dict[str, Float[Tensor, "batch seq d"]]


class Row:
    """A line of the table: a reconstructor and its running sums."""

    def __init__(
        self, measured: Reconstructor, subject: Subject, n_documents: int, same_x: DocumentSums | None = None
    ) -> None:
        self.measured = measured
        self.slices = subject.coder.writes
        self.sums = DocumentSums(n_documents)
        self.reconstruction = ReconstructionSums(
            subject.coder.d_out, self.sums, subject.training_mean(subject.coder.writes), same_x
        )
        self.firing = FiringSums(decoder_norms(measured.coder), self.sums) if isinstance(measured, Coded) else None

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = dict(self.reconstruction.metrics(self.slices))
        if self.firing is not None:
            found |= self.firing.metrics()
        elif isinstance(self.measured, Projection):
            found |= {"l0": float(self.measured.components.shape[0])}
        elif isinstance(self.measured, OwnBasis):
            found |= {"l0": float(self.measured.k)}
        found |= cross_entropy.metrics(self.sums)
        found["n_tokens"] = self.reconstruction.n_tokens
        return self.measured.facts | found

    def histograms(self, max_rows: int | None = None) -> dict[str, Any]:
        """Of densities and decoder cosines; nothing for what has no latents."""
        if self.firing is None or not isinstance(self.measured, Coded):
            return {}
        W_dec = self.measured.coder.W_dec.detach()
        cosines = nearest_cosine(W_dec) if max_rows is None else nearest_cosine(W_dec, max_rows)
        return {
            "density_histogram": log10_density_histogram(self.firing.density).to_dict(),
            "decoder_cosine_histogram": cosine_histogram(cosines).to_dict(),
        }


class Measurement:
    """A subject, its controls, and everything summed about them.

    sample [tokens, d_in]: what the coder reads on a part of the text, on which the controls are fitted. rule: the positions
    that count. no_controls: why the controls are not measured, if so.
    """

    def __init__(
        self,
        subject: Subject,
        rule: KeptRule,
        sample: Float[Tensor, "tokens d_in"],
        n_documents: int,
        *,
        n_contexts: int,
        seed: int,
        no_controls: str = "",
    ) -> None:
        self.subject, self.rule = subject, rule
        self.rows = {"coder": Row(Coded(subject.coder), subject, n_documents)}
        self.absent: dict[str, str] = {}
        for name, control in _controls(subject, sample, seed, no_controls).items():
            if isinstance(control, Absent):
                self.absent[name] = control.reason
            else:
                self.rows[name] = Row(control, subject, n_documents, self.rows["coder"].sums)
        self.contexts = FeatureContexts(subject.coder.d_sae, n_contexts)
        # What stands in for the activations in the ablations; coders trained on other text have other means.
        self.constants = {"ce_zero": torch.zeros(subject.coder.d_out)}
        mean = subject.training_mean(subject.coder.writes)
        if mean is not None:
            self.constants["ce_mean"] = mean.cpu()
        self.excluded = {"special": 0, "sink": 0}

    def count_excluded(self, left_out: Exclusions) -> None:
        """Account for the positions of a batch that do not count."""
        self.excluded["special"] += int(left_out.special.sum())
        self.excluded["sink"] += int(left_out.any_sink.sum())

    def update(
        self,
        passages: Passages,
        activations: Activations,
        kept: Bool[Tensor, "batch seq"],
        predictions: Predictions | None,
        spliced: SplicedRuns,
        ablated: dict[bytes, Float[Tensor, "n"]],
    ) -> None:
        """Add a batch. `ablated`: CE with a constant at this coder's writes, by the constant's bytes: filled by the first coder
        that needs one."""
        coder = self.subject.coder
        x = torch.cat([activations[part.point][kept] for part in coder.reads], 1).float()
        y = torch.cat([activations[part.point][kept] for part in coder.writes], 1).float()
        document = passages.document[kept.cpu()]
        constant: dict[str, Float[Tensor, "n"]] = {}
        if predictions is not None and predictions.target.numel():
            for key, value in self.constants.items():
                of_value = value.numpy().tobytes()
                if of_value not in ablated:
                    replaced = spliced.logits(coder, kept, value.to(y).expand_as(y))
                    ablated[of_value] = predictions.cross_entropy(replaced)
                constant[key] = ablated[of_value]
        for name, row in self.rows.items():
            output = row.measured.reconstruct(x, y)
            row.reconstruction.update(y, output.x_hat, document)
            if row.firing is not None and output.codes is not None:
                row.firing.update(output.codes, document)
            if name == "coder" and output.codes is not None:
                self.contexts.update(output.codes, passages, kept)
            if predictions is not None and predictions.target.numel():
                ce, kl = predictions.compare(spliced.logits(coder, kept, output.x_hat))
                row.sums.count("targets", predictions.document)
                losses = {"ce_orig": predictions.ce, "ce": ce, "kl": kl, **constant}
                for key, values in losses.items():
                    row.sums.add(key, predictions.document, values)

    def coder_record(self) -> dict[str, Any]:
        """Who the coder is, and its numbers."""
        coder, metadata = self.subject.coder, self.subject.coder.metadata
        who = {
            "name": self.subject.name,
            "fingerprint": coder_fingerprint(coder),
            "architecture": metadata.trained_as or coder.architecture.name,
            "kind": coder.kind,
            "options": metadata.options,
            "reads": [part.point for part in coder.reads],
            "writes": [part.point for part in coder.writes],
            "d_in": coder.d_in,
            "d_sae": coder.d_sae,
            "d_out": coder.d_out,
            "trained_tokens": metadata.training.get("tokens"),
        }
        row = self.rows["coder"]
        return who | row.metrics() | row.histograms()

    def control_records(self) -> dict[str, dict[str, Any]]:
        records: dict[str, dict[str, Any]] = {name: {"absent": reason} for name, reason in self.absent.items()}
        for name, row in self.rows.items():
            if name != "coder":
                records[name] = row.metrics() | row.histograms(_CONTROL_ROWS)
        return {name: records[name] for name in CONTROLS}

    def intervals(self, resamples: int, seed: int) -> dict[str, dict[str, list[float] | None]]:
        found = {}
        for name, row in self.rows.items():
            ranges = intervals(row.sums, resamples=resamples, seed=seed)
            found[name] = {key: list(value) if value is not None else None for key, value in ranges.items()}
        return found


def _controls(
    subject: Subject, sample: Float[Tensor, "tokens d_in"], seed: int, no_controls: str
) -> dict[str, Reconstructor | Absent]:
    if no_controls:
        return dict.fromkeys(CONTROLS, Absent(no_controls))
    l0 = mean_l0(subject.coder, sample)
    return {
        "frozen_random": frozen_random(subject, sample, l0, seed=seed),
        "pca": pca(subject, l0),
        "neurons": neurons(subject, sample, l0),
    }
