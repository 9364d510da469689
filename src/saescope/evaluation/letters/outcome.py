"""One coder's letters: probes, splits and absorption, as numbers with what a resample of the words makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

from saescope.evaluation.letters.absorption import Absorption, absorption
from saescope.evaluation.letters.examples import LetterExamples
from saescope.evaluation.letters.splitting import Candidates, LetterFeatures, SparseProbe, letter_features
from saescope.evaluation.linear_probe import LinearProbes, f1
from saescope.evaluation.part import Estimate
from saescope.evaluation.resampling import class_resamples, percentiles

LEAST_F1 = 0.6


@dataclass(frozen=True)
class Probed:
    """The ground truth: probes on the activations themselves, on the held-out words.

    f1 [1 + resamples, letters], the first row on the words as they are. usable: the letters whose probe has F1 > .6.
    """

    examples: LetterExamples
    probes: LinearProbes
    sees: Bool[Tensor, "test letters"]
    times: Float[Tensor, "draws test"]
    f1: Float[Tensor, "draws letters"]
    usable: tuple[int, ...]

    @staticmethod
    def of(examples: LetterExamples, resamples: int, seed: int) -> Probed:
        test, member = examples.words.test, examples.words.member
        probes = examples.probes().with_best_f1(examples.written[~test], member[~test])
        sees = probes.scores(examples.written[test]) > 0
        drawn = class_resamples(examples.words.letter[test], resamples, seed)
        times = torch.cat([torch.ones(1, drawn.shape[1]), drawn])
        found = f1(sees, member[test], times)
        return Probed(examples, probes, sees, times, found, tuple((found[0] > LEAST_F1).nonzero()[:, 0].tolist()))


@dataclass(frozen=True)
class FeatureF1:
    """Probes on few features: which, and their F1 on the held-out words, [1 + resamples, usable letters] each."""

    features: Sequence[LetterFeatures]
    single: Float[Tensor, "draws usable"]
    split: Float[Tensor, "draws usable"]


def feature_f1(
    features: sparse.csr_matrix, probed: Probed, *, most: int | None = None, either_sign: bool = False
) -> FeatureF1:
    """Of features [words, n], chosen on the training words."""
    test, member = probed.examples.words.test, probed.examples.words.member
    training, held_out = features[(~test).numpy()], features[test.numpy()].tocsc()
    candidates = Candidates(training)
    options = {} if most is None else {"most": most}
    found = [
        letter_features(candidates, member[~test][:, letter], either_sign=either_sign, **options)
        for letter in probed.usable
    ]
    target = member[test][:, list(probed.usable)]
    nothing = torch.zeros(held_out.shape[0], 0, dtype=torch.bool)

    def seen(probes: Sequence[SparseProbe]) -> Bool[Tensor, "test usable"]:
        return torch.stack([probe.sees(held_out) for probe in probes], 1) if probes else nothing

    single, split = seen([one.single for one in found]), seen([one.split for one in found])
    return FeatureF1(found, f1(single, target, probed.times), f1(split, target, probed.times))


@dataclass(frozen=True)
class LetterOutcome:
    """What a coder does with the letters. absorbed: by usable letter, None where it has no latent for it."""

    features: FeatureF1
    absorbed: Sequence[Absorption | None]
    words: Sequence[Bool[Tensor, "test"]]
    times: Float[Tensor, "draws test"]

    @property
    def splits(self) -> list[int]:
        """Latents each letter is split over, of the letters that have one."""
        return [len(one.split.chosen) for one in self.features.features if one.split.chosen]

    def rates(self, kind: str) -> Float[Tensor, "draws usable"]:
        """By letter the mean over its counted words of `full` or `fraction`; NaN where there is none."""
        columns = []
        for found, words in zip(self.absorbed, self.words, strict=True):
            if found is None:
                columns.append(self.times.new_full((self.times.shape[0],), torch.nan))
                continue
            times = self.times[:, words].double() * found.counted
            columns.append(times @ getattr(found, kind).to(times) / times.sum(1))
        return torch.stack(columns, 1)


def letter_outcome(
    codes: sparse.csr_matrix, W_dec: Float[Tensor, "d_sae d"], probed: Probed, features: FeatureF1 | None = None
) -> LetterOutcome:
    """Of a coder with these codes [words, d_sae], and its letters' latents where they are known. The words looked at for
    absorption are those the letter's probe is right on."""
    features = features or feature_f1(codes, probed)
    test, letter = probed.examples.words.test, probed.examples.words.letter
    held_out, written = codes[test.numpy()], probed.examples.written[test]
    absorbed: list[Absorption | None] = []
    chosen: list[Tensor] = []
    for number, one in zip(probed.usable, features.features, strict=True):
        words = (letter[test] == number) & probed.sees[:, number]
        chosen.append(words)
        if not one.split.chosen:
            absorbed.append(None)
            continue
        unit = probed.probes.unit[:, number]
        absorbed.append(absorption(held_out[words.numpy()], W_dec, unit, written[words] @ unit, one.split.chosen))
    return LetterOutcome(features, absorbed, chosen, probed.times)


def over_letters(by_letter: Float[Tensor, "draws letters"]) -> Estimate:
    """The mean over letters that have a number, and its interval over resampled words."""
    means = by_letter.double().nanmean(1)
    value = float(means[0])
    return Estimate(None) if np.isnan(value) else Estimate(value, percentiles(means[1:]))


def over_counts(counts: Sequence[int], resamples: int, seed: int) -> Estimate:
    """The mean of a count over letters, and its interval over resampled letters."""
    if not counts:
        return Estimate(None)
    values = torch.tensor(counts, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = values[torch.randint(len(counts), (resamples, len(counts)), generator=generator)].mean(1)
    return Estimate(float(values.mean()), percentiles(drawn) if len(counts) > 1 else None)
