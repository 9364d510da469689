"""Targeted effects: does ablating a class's latents hurt its own probe, and nobody else's?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saescope.coders import SparseCoder
from saescope.evaluation.bootstrap import RESAMPLES
from saescope.evaluation.code_matrix import code_matrix, decoder_rows
from saescope.evaluation.controls import Absent, frozen_random
from saescope.evaluation.effects.ablation import (
    COUNTS,
    LEAST_ACCURACY,
    NEIGHBOURS,
    Effect,
    Latents,
    ProbedSet,
    effect_of,
)
from saescope.evaluation.effects.class_set import ClassSet
from saescope.evaluation.effects.documents import DocumentPassages, document_passages, document_set
from saescope.evaluation.letters.examples import letter_examples, words_or_reason
from saescope.evaluation.letters.words import TEMPLATE, Words
from saescope.evaluation.part import Estimate, Part, Score
from saescope.evaluation.resampling import class_resamples, percentiles
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject

NAME = "effects"
TITLE = "Targeted effects"
# Sets of random latents whose effects are averaged.
DRAWS = 5
# Rows that settle the random coder's threshold and scale.
_SAMPLE_ROWS = 8192

CONTROLS = {
    "random_latents": "As many other latents of the coder, each drawn among those that fire about as often on the class; "
    f"mean of {DRAWS} draws.",
    "shuffled_decoder": "The coder with its decoder rows dealt out among its latents by chance; its latents chosen in the same "
    "way.",
    "frozen_random": "As many random directions, a threshold that gives the coder's L0 here, nothing trained; its latents "
    "chosen in the same way.",
}
_MEANING = (
    "Mean over classes of what ablating the {n} latents attributed to a class takes from its own probe's balanced accuracy, "
    "minus what it takes from the others' on average. At most about .5, where the own probe falls to chance."
)
_MISLEADS = (
    "Ablating the probe's own direction would score best of all: this asks whether few latents hold the class, not whether "
    "they mean it. Larger activations move probes further, at any n."
)


@torch.no_grad()
def measure(subjects: Sequence[Subject], setting: Setting) -> list[Part]:
    """Of each coder: the targeted effects on probes for first letters and for held-out documents."""
    words = words_or_reason(setting)
    trained = {document for subject in subjects for document in subject.coder.metadata.trained_documents}
    passages: dict[str, DocumentPassages | str] = {}
    parts = []
    for number, subject in enumerate(subjects):
        setting.progress("targeted effects", number, len(subjects))
        if subject.coder.reads != subject.coder.writes:
            parts.append(Part(NAME, TITLE, absent=_transcoder(subject.coder)))
            continue
        bos = subject.sequence_options().bos
        if bos not in passages:
            passages[bos] = document_passages(subject, trained, setting)
        sets = _class_sets(subject, words, passages[bos], setting)
        parts.append(measure_sets(subject.on(setting.lm.device), sets, resamples=setting.resamples, seed=setting.seed))
    setting.progress("targeted effects", len(subjects), len(subjects))
    return parts


def _transcoder(coder: SparseCoder) -> str:
    return (
        f"ablating a {coder.kind.replace('_', ' ')}'s latents changes what it writes, not the activations it reads, so no "
        "probe on these can tell; targeted effects need a coder that writes where it reads"
    )


def _class_sets(
    subject: Subject, words: Words | str, passages: DocumentPassages | str, setting: Setting
) -> list[ClassSet | tuple[str, str]]:
    """The sets, or the name of one and why it is missing."""
    examples = words if isinstance(words, str) else letter_examples(subject, words, setting)
    documents = passages if isinstance(passages, str) else document_set(subject, passages, setting)
    return [
        ("letters", examples) if isinstance(examples, str) else ClassSet.of_letters(examples),
        ("documents", documents) if isinstance(documents, str) else documents,
    ]


@dataclass(frozen=True)
class _SetOutcome:
    """One class set's effects by n, the coder's and the controls'."""

    probed: ProbedSet
    latents: Latents
    own: dict[int, Effect]
    random_latents: dict[int, list[Effect]]
    shuffled_decoder: dict[int, Effect]
    frozen_random: dict[int, Effect] | None
    control: dict[str, Any]
    l0: float


@torch.no_grad()
def measure_sets(
    subject: Subject, sets: Sequence[ClassSet | tuple[str, str]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Part:
    """One coder's part, on class sets whose activations are known."""
    missing = {part[0]: part[1] for part in sets if isinstance(part, tuple)}
    outcomes: list[_SetOutcome] = []
    for classes in (part for part in sets if isinstance(part, ClassSet)):
        probed = ProbedSet.of(classes)
        if len(probed.usable) < 2:
            missing[classes.key] = (
                f"linear probes of balanced accuracy {LEAST_ACCURACY} were found for {len(probed.usable)} of "
                f"{len(classes.classes)} classes, and 2 are needed"
            )
            continue
        outcomes.append(_set_outcome(subject, probed, seed))
    if not outcomes:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in missing.items())
        return Part(NAME, TITLE, absent=f"there are no classes to measure effects on ({reasons})")
    scores = [score for outcome in outcomes for score in _scores(outcome, resamples, seed)]
    has_random = any(outcome.frozen_random is not None for outcome in outcomes)
    facts: dict[str, Any] = {
        "counts": list(COUNTS),
        "latents_chosen_by": "(mean activation on the class's training examples - on the others') x (decoder row . probe), "
        "the largest positive ones",
        "random_latents": {"draws": DRAWS, "matched_within": NEIGHBOURS},
        "seed": seed,
        "intervals": {"unit": "held-out example within its class", "level": 0.95, "resamples": resamples},
        "missing_sets": missing,
        "sets": {outcome.probed.classes.key: _facts(outcome) for outcome in outcomes},
    }
    controls = {key: text for key, text in CONTROLS.items() if has_random or key != "frozen_random"}
    return Part(NAME, TITLE, lead=_lead(outcomes), scores=tuple(scores), controls=controls, facts=facts)


def _set_outcome(subject: Subject, probed: ProbedSet, seed: int) -> _SetOutcome:
    classes = probed.classes
    codes = code_matrix(subject.coder, classes.x)
    l0 = codes.nnz / codes.shape[0]
    latents = Latents.of(codes, decoder_rows(subject.coder), probed)
    chosen = _chosen(latents, probed)
    generator = np.random.default_rng(seed)
    draws = [{label: latents.matched(label, chosen[label], generator) for label in probed.usable} for _ in range(DRAWS)]
    rows = classes.x.shape[0]
    spread = torch.arange(min(rows, _SAMPLE_ROWS)) * rows // min(rows, _SAMPLE_ROWS)
    control = frozen_random(subject, classes.x[spread], l0, seed=seed)
    shuffled = latents.with_shuffled_decoder(seed)
    random_effects = None
    if not isinstance(control, Absent):
        random_codes = code_matrix(control.coder, classes.x)
        random_latents = Latents.of(random_codes, decoder_rows(control.coder), probed)
        random_effects = _effects(random_latents, _chosen(random_latents, probed), probed)
    return _SetOutcome(
        probed,
        latents,
        _effects(latents, chosen, probed),
        {n: [_effect(latents, draw, probed, n) for draw in draws] for n in COUNTS},
        _effects(shuffled, _chosen(shuffled, probed), probed),
        random_effects,
        {"absent": control.reason} if isinstance(control, Absent) else control.facts,
        l0,
    )


def _chosen(latents: Latents, probed: ProbedSet) -> dict[int, list[int]]:
    return {label: latents.attributed(label, max(COUNTS)) for label in probed.usable}


def _effects(latents: Latents, chosen: dict[int, list[int]], probed: ProbedSet) -> dict[int, Effect]:
    return {n: _effect(latents, chosen, probed, n) for n in COUNTS}


def _effect(latents: Latents, chosen: dict[int, list[int]], probed: ProbedSet, n: int) -> Effect:
    return effect_of(latents, [chosen[label][:n] for label in probed.usable], probed)


def _scores(outcome: _SetOutcome, resamples: int, seed: int) -> list[Score]:
    classes = outcome.probed.classes
    times = class_resamples(classes.label[classes.test], resamples, seed).double()

    def estimate(effects: Sequence[Effect]) -> Estimate:
        by_example = torch.stack([effect.by_example for effect in effects]).mean(0)
        return Estimate(float(by_example.sum()), percentiles(times @ by_example))

    scores = []
    for n in COUNTS:
        controls = {
            "random_latents": estimate(outcome.random_latents[n]),
            "shuffled_decoder": estimate([outcome.shuffled_decoder[n]]),
        }
        if outcome.frozen_random is not None:
            controls["frozen_random"] = estimate([outcome.frozen_random[n]])
        scores.append(
            Score(
                f"{classes.key}_effect_{n}",
                f"Effect of {n} latents",
                estimate([outcome.own[n]]),
                controls,
                _MEANING.format(n=n),
                _MISLEADS,
                "higher",
                group=classes.title,
            )
        )
    return scores


def _lead(outcomes: Sequence[_SetOutcome]) -> str:
    parts = [
        f"{outcome.probed.classes.title.lower()}: {len(outcome.probed.usable)} classes, "
        f"{outcome.probed.scores.shape[0]:,} held-out examples"
        for outcome in outcomes
    ]
    lead = f"Balanced accuracy of linear probes after latents are ablated ({'; '.join(parts)})."
    if not any(outcome.latents.attributed(label, 1) for outcome in outcomes for label in outcome.probed.usable):
        lead += " No latent fires for any class, so nothing was ablated and every effect is 0."
    return lead


def _facts(outcome: _SetOutcome) -> dict[str, Any]:
    probed = outcome.probed
    by_class = {}
    for place, label in enumerate(probed.usable):
        by_class[probed.classes.classes[label]] = {
            "balanced_accuracy": float(probed.accuracy[label]),
            "latents": outcome.latents.attributed(label, max(COUNTS)),
            "own_drop": {str(n): float(effect.own[place]) for n, effect in outcome.own.items()},
            "others_drop": {str(n): float(effect.others[place]) for n, effect in outcome.own.items()},
        }
    facts: dict[str, Any] = {
        **probed.classes.facts,
        "classes": len(probed.classes.classes),
        "classes_counted": len(probed.usable),
        "l0": outcome.l0,
        "own_drop": {str(n): float(effect.own.mean()) for n, effect in outcome.own.items()},
        "others_drop": {str(n): float(effect.others.mean()) for n, effect in outcome.own.items()},
        "by_class": by_class,
        "frozen_random": outcome.control,
    }
    return {"template": TEMPLATE, **facts} if probed.classes.key == "letters" else facts
