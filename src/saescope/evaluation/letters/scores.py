"""What the numbers about first letters mean, and how they mislead."""

from __future__ import annotations

from collections.abc import Callable

from saescope.evaluation.letters.outcome import (
    FeatureF1,
    LetterOutcome,
    Probed,
    over_counts,
    over_letters,
)
from saescope.evaluation.part import Estimate, Score

CONTROLS = {
    "frozen_random": "As many random directions, a threshold that gives the coder's L0 on these words, nothing trained.",
    "shuffled_decoder": "The coder with its decoder rows dealt out among its latents by chance, its letters' latents kept.",
    "dimension": "The best single dimension of the activations, chosen in the same way.",
    "dense_probe": "A linear probe on all dimensions of the activations.",
}


def lead_of(own: LetterOutcome, probed: Probed) -> str:
    """What was measured, and on how much."""
    words = probed.examples.words
    with_latent = len(own.splits)
    letters = f"{len(probed.usable)} of {len(words.letters)} letters, whose linear probe has F1 over .6"
    sentence = f"First letters of {int(words.test.sum()):,} held-out words, for {letters}."
    if not with_latent:
        return f"{sentence} No latent fires more on any letter's words than on others, so there is nothing to split or absorb."
    if with_latent < len(probed.usable):
        sentence += f" {len(probed.usable) - with_latent} of them have no latent and count in F1 only, as 0."
    return sentence


def scores_of(
    own: LetterOutcome,
    shuffled: LetterOutcome,
    random: LetterOutcome | None,
    dimensions: FeatureF1,
    probed: Probed,
    resamples: int,
    seed: int,
) -> tuple[Score, ...]:
    """Every score of the part, with the controls that it can have."""

    def beside(take: Callable[[LetterOutcome], Estimate]) -> dict[str, Estimate]:
        return {} if random is None else {"frozen_random": take(random)}

    def splits(outcome: LetterOutcome) -> Estimate:
        return over_counts(outcome.splits, resamples, seed)

    def absorbed(kind: str) -> dict[str, Estimate]:
        by_chance = {"shuffled_decoder": over_letters(shuffled.rates(kind))}
        return {**beside(lambda outcome: over_letters(outcome.rates(kind))), **by_chance}

    dense = over_letters(probed.f1[:, list(probed.usable)])
    return (
        Score(
            "k1_f1",
            "F1 of one latent",
            over_letters(own.features.single),
            {
                **beside(lambda outcome: over_letters(outcome.features.single)),
                "dimension": over_letters(dimensions.single),
                "dense_probe": dense,
            },
            "How well the best single latent tells a letter's words from all others, mean over letters.",
            "A coder that splits a letter cleanly over several latents scores low here without having lost anything.",
            "higher",
        ),
        Score(
            "split_f1",
            "F1 of the split latents",
            over_letters(own.features.split),
            {**beside(lambda outcome: over_letters(outcome.features.split)), "dense_probe": dense},
            "The same with all latents that the letter is split over.",
            "More latents give a better fit; compare it with the number of them beside it.",
            "higher",
        ),
        Score(
            "split_latents",
            "Latents a letter",
            splits(own),
            beside(splits),
            "Latents added to a letter's probe while its F1 on training words rose by more than .03; 1 is no splitting.",
            "Also 1 where no latent helps at all: read it beside F1. Wider coders split more.",
            digits=2,
        ),
        Score(
            "full_absorption_rate",
            "Full absorption",
            over_letters(own.rates("full")),
            absorbed("full"),
            "Held-out words, of those the linear probe is right on, whose letter's latents are all silent while one other "
            "latent carries at least .4 of the activation's projection on the probe.",
            "Where a letter has no good latent, its 'main' latents are silent on most words whatever else happens.",
            "lower",
            percent=True,
        ),
        Score(
            "absorption_fraction",
            "Absorption fraction",
            over_letters(own.rates("fraction")),
            absorbed("fraction"),
            "Mean share of the letter's projection that up to three other latents have taken over, where they carry .4 of it.",
            "Latents shorter than the activations (shrinkage) fall below the .4 and look less absorbed.",
            "lower",
            percent=True,
        ),
    )
