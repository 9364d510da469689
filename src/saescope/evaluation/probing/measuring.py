"""Sparse probing of several coders: tasks, one run of the model for all, features, probes, and the part of each coder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.activations import KeptRule
from saescope.errors import TextError, UsageError
from saescope.evaluation.controls import Absent, frozen_random, mean_l0
from saescope.evaluation.part import Part
from saescope.evaluation.probing import features
from saescope.evaluation.probing.corpus_tasks import corpus_tasks
from saescope.evaluation.probing.labelled_sets import read_labelled_sets
from saescope.evaluation.probing.labelled_tasks import labelled_tasks, labelled_texts
from saescope.evaluation.probing.outcome import CODER, DENSE, Outcome, Result, Results, difference, named
from saescope.evaluation.probing.passages import passages_of
from saescope.evaluation.probing.probe import C_GRID, Selection, dense_probe, sparse_probes
from saescope.evaluation.probing.quality import QUALITIES, Resamples, qualities, resampled_groups
from saescope.evaluation.probing.scores import CONTROLS, scores_of
from saescope.evaluation.probing.task import FOLDS, Candidates, Task, generator, split
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject
from saescope.evaluation.text_activations import TextActivations

NAME, TITLE = "probing", "Sparse probing"
# Rows on which the random control is fitted.
_SAMPLE_ROWS = 8192


@dataclass(frozen=True)
class ProbingOptions:
    """ks: numbers of latents. selections: by |μ₊ - μ₋| ("difference"), which most scores are of, and by that over the feature's
    standard deviation ("standardised"). most: examples of a task, and texts of a labelled set. n_articles: documents of the
    corpus that are told from the others. passage_tokens: of passages from the corpus."""

    ks: tuple[int, ...] = (1, 2, 5, 20)
    selections: tuple[Selection, ...] = ("difference", "standardised")
    most: int = 1000
    n_articles: int = 4
    passage_tokens: int = 64

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise UsageError(f"k must be 1 or more, got {list(self.ks)}")
        if "difference" not in self.selections:
            raise UsageError(f"selections must have 'difference', which the scores are of, got {list(self.selections)}")


@dataclass(frozen=True)
class TaskSet:
    """Texts that were run together, and the tasks on them."""

    source: str
    activations: TextActivations
    tasks: list[Task]
    refused: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    def examples(self, level: str) -> np.ndarray:
        """All texts, or all rows, that some task has, ascending."""
        return np.unique(np.concatenate([[], *(t.example for t in self.tasks if t.level == level)]).astype(np.int64))


def measure(subjects: Sequence[Subject], setting: Setting, options: ProbingOptions | None = None) -> list[Part]:
    """Sparse probing of each coder, on tasks from the corpus (documents that trained none of them) and on labelled sets.

    The coders share texts, tasks and splits, so their numbers can be compared task by task. A text that has no row kept by
    every coder's rule, and a token that some rule leaves out, is in no task. Errors of `setting.tasks`: UsageError,
    TextError in one line.
    """
    options = options or ProbingOptions(most=setting.examples)
    started = time.perf_counter()
    for subject in subjects:
        subject.check_model(setting.lm)
    sets, rules, why_not = _task_sets(subjects, setting, options)
    n_tasks = sum(len(one.tasks) for one in sets)
    if not n_tasks:
        refused = [f"{name}: {reason}" for one in sets for name, reason in one.refused.items()]
        return [Part(NAME, TITLE, absent=why_not or "no task could be made; " + "; ".join(refused[:3]))] * len(subjects)
    prepared = time.perf_counter() - started
    shared: dict[str, list[dict[str, Results]]] = {}
    found = []
    for number, (subject, rule) in enumerate(zip(subjects, rules, strict=True)):

        def told(done: int, number: int = number) -> None:
            setting.progress("probe", number * n_tasks + done, len(subjects) * n_tasks)

        begun = time.perf_counter()
        outcomes, facts = _outcomes(subject.on(setting.lm.device), rule, sets, setting, options, shared, told)
        facts["seconds"] = {"texts": round(prepared, 1), "probes": round(time.perf_counter() - begun, 1)}
        found.append(_part(outcomes, sets, setting, options, facts, why_not))
    return found


def _task_sets(
    subjects: Sequence[Subject], setting: Setting, options: ProbingOptions
) -> tuple[list[TaskSet], list[KeptRule], str]:
    """Tasks on activations, each coder's rule, and why there is none from the corpus, if so."""
    labelled = read_labelled_sets(setting.tasks) if setting.tasks is not None else []
    points = list(dict.fromkeys(point for subject in subjects for point in subject.points))
    cut = subjects[0].sequence_options()
    trained = {document for subject in subjects for document in subject.coder.metadata.trained_documents}
    rules: list[KeptRule] = []

    def run(texts: list[list[int]], stage: str) -> tuple[TextActivations, Bool[np.ndarray, "rows"]]:
        told: Callable[[int, int], None] = lambda done, total: setting.progress(stage, done, total)  # noqa: E731
        activations = setting.cache.of(texts, points, told)
        if not rules:
            rules.extend(activations.rule_of(subject, setting.lm.special_ids) for subject in subjects)
        usable = torch.ones(activations.tokens.numel(), dtype=torch.bool)
        for rule in {repr(rule.to_dict()): rule for rule in rules}.values():
            usable &= activations.kept(rule)
        return activations, usable.numpy()

    sets = []
    why_not = ""
    try:
        pool = passages_of(
            setting.corpus,
            setting.lm,
            cut,
            trained,
            passage_tokens=options.passage_tokens,
            n_articles=options.n_articles,
        )
    except TextError as error:
        why_not = str(error)
    else:
        activations, usable = run(pool.texts, "probing: passages")
        sets.append(
            _with_splits("corpus", activations, corpus_tasks(pool, usable), setting, options, {"pool": pool.facts})
        )
    for one in labelled:
        drawn = labelled_texts(one, setting.lm, cut, most=options.most, seed=setting.seed)
        activations, usable = run(drawn.texts, f"probing: {one.name}")
        some = np.add.reduceat(usable, activations.pointers[:-1].numpy()) > 0
        candidates = labelled_tasks(drawn, some)
        sets.append(_with_splits(one.name, activations, candidates, setting, options, drawn.facts))
    return sets, rules, why_not


def _with_splits(
    source: str,
    activations: TextActivations,
    candidates: list[Candidates],
    setting: Setting,
    options: ProbingOptions,
    facts: dict[str, Any],
) -> TaskSet:
    tasks, refused = [], {}
    for one in candidates:
        task = split(one, seed=setting.seed, most=options.most)
        if isinstance(task, Task):
            tasks.append(task)
        else:
            refused[one.name] = task
    return TaskSet(source, activations, tasks, refused, facts)


def _outcomes(
    subject: Subject,
    rule: KeptRule,
    sets: list[TaskSet],
    setting: Setting,
    options: ProbingOptions,
    shared: dict[str, list[dict[str, Results]]],
    told: Callable[[int], None],
) -> tuple[list[Outcome], dict[str, Any]]:
    """`shared`: results on dimensions by what is read, filled by the first coder that reads it."""
    sample = _sample(subject, rule, sets)
    l0 = mean_l0(subject.coder, sample)
    control = frozen_random(subject, sample, l0, seed=setting.seed)
    facts: dict[str, Any] = {"l0": l0}
    coders = {CODER: subject.coder}
    if isinstance(control, Absent):
        facts["frozen_random"] = {"absent": control.reason}
    else:
        facts["frozen_random"] = control.facts
        coders["frozen_random"] = control.coder
    key = repr(([part.point for part in subject.coder.reads], rule.to_dict()))
    known = shared.get(key)
    on_dimensions: list[dict[str, Results]] = []
    outcomes = []
    for place, one in enumerate(sets):
        kept = one.activations.kept(rule)
        dimensions = {} if known else _pooled(one, kept, features.dimensions(subject, one.activations))
        latents = {
            what: _pooled(one, kept, features.latents(subject, coder, one.activations))
            for what, coder in coders.items()
        }
        on_dimensions.append({})
        for task in one.tasks:
            if not known:
                on_dimensions[place][task.name] = _on_dimensions(_of(task, one, dimensions), task, setting, options)
            results = dict((known or on_dimensions)[place][task.name])
            for what, found in latents.items():
                results |= _sparse(what, _of(task, one, found), task, setting, options)
            outcomes.append(Outcome(task, results))
            told(len(outcomes))
    shared.setdefault(key, on_dimensions)
    return outcomes, facts


def _sample(subject: Subject, rule: KeptRule, sets: list[TaskSet]) -> Float[Tensor, "rows d_in"]:
    """What the coder reads at evenly spaced kept rows of the first texts that were run."""
    activations = sets[0].activations
    rows = torch.nonzero(activations.kept(rule))[:, 0]
    rows = rows[torch.arange(0, len(rows), max(1, -(-len(rows) // _SAMPLE_ROWS)))]
    return activations.concatenated([part.point for part in subject.coder.reads], rows)


def _pooled(one: TaskSet, kept: Bool[Tensor, "rows"], values: Callable[[Tensor], Any]) -> dict[str, Any]:
    """By level, the features of every example that some task of the set has."""
    found = {}
    if len(texts := one.examples("text")):
        found["text"] = features.pooled(features.text_weights(one.activations, kept, texts), values)
    if len(rows := one.examples("token")):
        found["token"] = features.pooled(features.row_weights(one.activations, rows), values)
    return found


def _of(task: Task, one: TaskSet, by_level: dict[str, Any]) -> Any:
    """The features of this task's examples, in its order."""
    return by_level[task.level][np.searchsorted(one.examples(task.level), task.example)]


def _sparse(what: str, found: Any, task: Task, setting: Setting, options: ProbingOptions) -> Results:
    """`what` by every rule of selection."""
    drawn, label = _resampled(task, setting), task.label[task.test]
    results = {}
    for selection in options.selections:
        probes = sparse_probes(found, task, options.ks, selection=selection)
        by_k = {k: Result(probe, qualities(probe.score, label, drawn)) for k, probe in probes.items()}
        results[named(what, selection)] = by_k
    return results


def _on_dimensions(found: Any, task: Task, setting: Setting, options: ProbingOptions) -> Results:
    probe = dense_probe(found.astype(np.float64), task)
    dense = Result(probe, qualities(probe.score, task.label[task.test], _resampled(task, setting)))
    return _sparse("dimensions", found, task, setting, options) | {DENSE: {0: dense}}


def _resampled(task: Task, setting: Setting) -> Resamples | None:
    """The same for every probe of a task, so that they can be compared resample by resample."""
    rng = generator(setting.seed, f"{task.source}/{task.name}/intervals")
    return resampled_groups(task.group[task.test], setting.resamples, rng)


def _part(
    outcomes: list[Outcome],
    sets: list[TaskSet],
    setting: Setting,
    options: ProbingOptions,
    facts: dict[str, Any],
    why_not: str,
) -> Part:
    corpus = [outcome for outcome in outcomes if outcome.task.source == "corpus"]
    again = {"resamples": setting.resamples, "seed": setting.seed}
    absent = facts["frozen_random"].get("absent")
    controls = dict(CONTROLS)
    if absent:
        controls["frozen_random"] = f"Not here: {absent}."
    details: dict[str, Any] = {
        "ks": list(options.ks),
        "selections": list(options.selections),
        "C_grid": list(C_GRID),
        "folds": FOLDS,
        "intervals": {"unit": "test group; for means, task or labelled set", "level": 0.95, **again},
        **facts,
        "sets": {one.source: one.facts for one in sets},
        "refused": {one.source: one.refused for one in sets if one.refused},
        "beside": {
            f"k{k}": {
                quality: {
                    other: difference(corpus, other, k, quality, **again).to_dict()
                    for other in CONTROLS
                    if corpus and other in corpus[0].results
                }
                for quality in QUALITIES
            }
            for k in options.ks
        },
        "tasks": [outcome.record() for outcome in outcomes],
    }
    if why_not:
        details["no_corpus_tasks"] = why_not
    return Part(
        NAME,
        TITLE,
        lead=_lead(corpus, sets, why_not),
        scores=tuple(scores_of(outcomes, options.ks, **again)),
        controls=controls,
        facts=details,
    )


def _lead(corpus: list[Outcome], sets: list[TaskSet], why_not: str) -> str:
    told = []
    if corpus:
        pool = sets[0].facts["pool"]
        told.append(
            f"{len(corpus)} tasks made from {pool['passages']:,} passages of {pool['documents']} documents "
            "that trained no coder"
        )
    elif why_not:
        told.append(f"no task from the text ({why_not})")
    if n := sum(one.source != "corpus" and bool(one.tasks) for one in sets):
        told.append(f"{n} labelled {'set' if n == 1 else 'sets'}")
    sentence = " and ".join(told)
    return f"{sentence[:1].upper()}{sentence[1:]}; probes fitted on some groups of examples, measured on others."
