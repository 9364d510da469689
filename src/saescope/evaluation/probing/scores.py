"""The numbers of the part: means over tasks, with a sentence each on what they mean and how they mislead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from saescope.evaluation.part import Estimate, Score
from saescope.evaluation.probing.outcome import CODER, Outcome, mean, named
from saescope.evaluation.probing.probe import Selection

CONTROLS = {
    "dimensions": "The same with single dimensions of the activations that the coder reads, in place of its latents.",
    "frozen_random": "The same with as many random directions at the coder's L0, nothing trained.",
    "dense": "A probe on all dimensions of the activations at once: what there is to be read, an upper mark.",
}
# Finer rows are given for these k only.
FINER = (1, 5)
_QUALITIES = {
    "accuracy": ("accuracy", "Share of held-out examples told right"),
    "f1": ("F1", "F1 on held-out examples"),
    "auc": ("AUC", "Chance that a held-out example of the label scores above one without it"),
}
_CHANCE = {
    "accuracy": "chance is .5",
    "f1": "guessing gives .5, always saying yes .667, never 0",
    "auc": "chance is .5",
}
_MISLEADS = {
    "accuracy": "Tasks differ in how much the token itself gives away, so a mean depends on the choice of tasks: read it "
    "beside the controls, not alone.",
    "f1": "Depends on where the probe puts its threshold; a latent that fires on half of a label only can have a high AUC "
    "and a low F1.",
    "auc": "Blind to the threshold; a latent that is zero on most examples of both labels is pulled to .5 by ties.",
}
_LABELLED_MISLEADS = (
    "What tells the labels apart may be a word or the length of the text rather than what the label is about, and a group "
    "column that is missing lets near copies into training and test."
)
Mean = Callable[..., Estimate]


def scores_of(outcomes: Sequence[Outcome], ks: Sequence[int], *, resamples: int, seed: int) -> list[Score]:
    """Means over the tasks from the text first, then by their kind, then over labelled sets, then of each set."""
    average = partial(mean, resamples=resamples, seed=seed)
    corpus = [outcome for outcome in outcomes if outcome.task.source == "corpus"]
    labelled = [outcome for outcome in outcomes if outcome.task.source != "corpus"]
    found: list[Score] = []
    by_deviation = any(named(CODER, "standardised") in outcome.results for outcome in corpus)
    if corpus:
        on = f"mean over {_counted(len(corpus), 'task')} from the text"
        found += [_score("probe", k, "accuracy", corpus, "task", average, on) for k in ks]
        for quality in ("auc", "f1"):
            found += [_score("probe", k, quality, corpus, "task", average, on) for k in ks if k in FINER]
        if by_deviation:
            found += [
                _score(
                    "probe",
                    k,
                    "accuracy",
                    corpus,
                    "task",
                    average,
                    f"{on}, chosen by |μ₊ − μ₋| over their standard deviation",
                    part="standardised",
                    group="Latents chosen by standardised distance",
                    selection="standardised",
                )
                for k in ks
                if k in FINER
            ]
        kinds = list(dict.fromkeys(kind_of(outcome) for outcome in corpus))
        for kind in kinds:
            own = [outcome for outcome in corpus if kind_of(outcome) == kind]
            on = f"mean over {_counted(len(own), 'task')} of this kind"
            found += [
                _score(
                    "probe", k, "accuracy", own, "task", average, on, part=kind, group="Kinds of tasks from the text"
                )
                for k in ks
                if k in FINER
            ]
    if labelled:
        sources = list(dict.fromkeys(outcome.task.source for outcome in labelled))
        on = f"mean over {_counted(len(sources), 'labelled set')}, each counted once"
        found += [_score("labelled", k, "accuracy", labelled, "source", average, on, group="Labelled sets") for k in ks]
        for source in sources:
            own = [outcome for outcome in labelled if outcome.task.source == source]
            on = f"of {source}" if len(own) == 1 else f"of {source}, mean over its {len(own)} labels"
            found += [
                _score(
                    "labelled", k, "accuracy", own, "task", average, on, part=source, group="Labelled sets, one by one"
                )
                for k in ks
                if k in FINER
            ]
    return found


def kind_of(outcome: Outcome) -> str:
    """`article`, `file`, `token` or `next`."""
    return outcome.task.name.partition(":")[0]


def _score(
    prefix: str,
    k: int,
    quality: str,
    outcomes: Sequence[Outcome],
    unit: str,
    average: Mean,
    on: str,
    *,
    part: str = "",
    group: str = "",
    selection: Selection = "difference",
) -> Score:
    name, says = _QUALITIES[quality]
    latents = "one latent" if k == 1 else f"{k} latents"
    controls = {
        control: average(outcomes, named(control, selection), k, quality, unit=unit)
        for control in CONTROLS
        if any(control in outcome.results for outcome in outcomes)
    }
    label = f"{latents}, {name}"
    return Score(
        key=f"{prefix}_k{k}_{quality}" + (f".{part}" if part else ""),
        label=f"{part}: {label}" if part else label[0].upper() + label[1:],
        found=average(outcomes, named(CODER, selection), k, quality, unit=unit),
        controls=controls,
        meaning=f"{says} by {latents} chosen in training, {on}; {_CHANCE[quality]}.",
        misleads=_LABELLED_MISLEADS if prefix == "labelled" else _MISLEADS[quality],
        better="higher",
        group=group,
    )


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
