"""Measuring coders on text that trained none of them: one original run of each batch, shared by all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.activations import KeptRule
from saescope.coders import SparseCoder
from saescope.errors import TextError, UsageError
from saescope.evaluation.bootstrap import RESAMPLES
from saescope.evaluation.cross_entropy import Predictions, SplicedRuns
from saescope.evaluation.evaluation import Evaluation
from saescope.evaluation.held_out import HeldOutText, held_out_text, thinned
from saescope.evaluation.measurement import Activations, Measurement
from saescope.evaluation.subject import Subject
from saescope.features import Passages
from saescope.lm import LanguageModel, Run
from saescope.text import Corpus, Document

# Tokens on which controls are fitted, spread over the text.
_SAMPLE_TOKENS = 16384
# Logits of a batch, in elements; a batch is never longer than _MOST_TOKENS either.
_LOGIT_ELEMENTS = 2**26
_MOST_TOKENS = 8192

Given = Subject | SparseCoder | str | Path
Progress = Callable[[str, int, int], None]


@torch.no_grad()
def evaluate(
    coders: Given | Sequence[Given],
    lm: LanguageModel,
    corpus: Corpus | Iterable[Document],
    *,
    max_tokens: int | None = None,
    ce_tokens: int | None = None,
    batch_tokens: int | None = None,
    n_contexts: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Every "Core" metric of METRICS.md with its controls and intervals, for each coder (a coder or its folder).

    Measured on the documents of `corpus` that trained none of the coders: all of them, or about `max_tokens` spread over
    them; CE and KL, which cost several more runs of the model, on about `ce_tokens` of these. `batch_tokens`: run at once
    (default: by the size of the vocabulary). `progress(stage, tokens done, tokens in all)`.

    CoderError when a coder is not of this model, TextError when no untrained document is left, UsageError when the coders
    cut their text differently and so cannot share it.
    """
    if isinstance(coders, Subject | SparseCoder | str | Path):
        coders = [coders]
    subjects = [Subject.of(given) for given in coders]
    _check(subjects, lm)
    for name, value in (("max_tokens", max_tokens), ("ce_tokens", ce_tokens), ("batch_tokens", batch_tokens)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be positive, got {value}")
    tell = progress or (lambda stage, done, total: None)
    started = time.perf_counter()
    trained = {document for subject in subjects for document in subject.coder.metadata.trained_documents}
    tell("tokenize", 0, 1)
    text = held_out_text(corpus, lm.tokenizer, subjects[0].sequence_options(), trained, max_tokens)
    tell("tokenize", 1, 1)
    batch_tokens = batch_tokens or min(_MOST_TOKENS, max(1, _LOGIT_ELEMENTS // lm.vocab_size))
    measurements = _prepared(subjects, lm, text, batch_tokens, n_contexts, seed, tell)
    _measure(measurements, lm, text, batch_tokens, ce_tokens, tell)
    facts = _facts(lm, text, batch_tokens, resamples, seed)
    facts["seconds"] = round(time.perf_counter() - started, 1)
    return [_finished(measurement, text, facts, resamples, seed) for measurement in measurements]


def _check(subjects: list[Subject], lm: LanguageModel) -> None:
    if not subjects:
        raise UsageError("no coder given; name at least one")
    options = subjects[0].sequence_options()
    for subject in subjects:
        subject.check_model(lm)
        if subject.sequence_options().model_dump(exclude={"held_out"}) != options.model_dump(exclude={"held_out"}):
            raise UsageError(
                f"coders {subjects[0].name} and {subject.name} were trained on text cut in different ways; "
                "evaluate them one by one"
            )


def _run(lm: LanguageModel, passages: Passages, points: list[str], *, logits: bool = False) -> Run:
    tokens = passages.tokens.clamp(min=0)
    return lm.run(tokens, attention_mask=passages.real.long(), capture=points, logits=logits)


def _points(subjects: Sequence[Subject]) -> list[str]:
    return list(dict.fromkeys(point for subject in subjects for point in subject.points))


def _kept(rule: KeptRule, passages: Passages, activations: Activations) -> Bool[Tensor, "batch seq"]:
    device = next(iter(activations.values())).device
    kept = rule.kept(passages.tokens.to(device), activations)
    return kept & (passages.document >= 0).to(device)


def _prepared(
    subjects: list[Subject],
    lm: LanguageModel,
    text: HeldOutText,
    batch_tokens: int,
    n_contexts: int,
    seed: int,
    tell: Progress,
) -> list[Measurement]:
    """Measurements with their controls fitted on a sample of the text."""
    rules: dict[int, KeptRule] = {}
    samples: dict[int, list[Tensor]] = {index: [] for index in range(len(subjects))}
    part = HeldOutText(thinned(text.sequences, _SAMPLE_TOKENS), text.documents, 0, {})
    gathered = 0
    for passages in part.batches(batch_tokens):
        tell("fit controls", gathered, part.n_tokens)
        activations = _run(lm, passages, _points(subjects)).activations
        for index, subject in enumerate(subjects):
            if index not in rules:
                rules[index] = subject.kept_rule() or _measured_rule(subject, passages, activations, lm)
            kept = _kept(rules[index], passages, activations)
            x = torch.cat([activations[part.point][kept] for part in subject.coder.reads], 1)
            samples[index].append(x.float().cpu())
        gathered += int(passages.real.sum())
    tell("fit controls", gathered, part.n_tokens)
    found = []
    for index, subject in enumerate(subjects):
        sample = torch.cat(samples[index])
        if not sample.shape[0]:
            raise TextError(
                "every token of the evaluation text is a special token or an attention sink; use other text"
            )
        found.append(Measurement(subject, rules[index], sample, len(text.documents), n_contexts=n_contexts, seed=seed))
    return found


def _measured_rule(subject: Subject, passages: Passages, activations: Activations, lm: LanguageModel) -> KeptRule:
    own = {part.point: activations[part.point] for part in (*subject.coder.reads, *subject.coder.writes)}
    device = next(iter(own.values())).device
    return KeptRule.measured(passages.tokens.to(device), own, lm.special_ids)


def _measure(
    measurements: list[Measurement],
    lm: LanguageModel,
    text: HeldOutText,
    batch_tokens: int,
    ce_tokens: int | None,
    tell: Progress,
) -> None:
    batches = list(text.batches(batch_tokens))
    points = _points([measurement.subject for measurement in measurements])
    with_ce = _chosen(len(batches), 1.0 if ce_tokens is None else ce_tokens / max(1, text.n_tokens))
    done = 0
    for number, passages in enumerate(batches):
        tell("measure", done, text.n_tokens)
        run = _run(lm, passages, points, logits=number in with_ce)
        spliced = SplicedRuns(lm, passages, run.activations)
        kept: dict[str, Bool[Tensor, "batch seq"]] = {}
        predictions: dict[str, Predictions] = {}
        ablated: dict[tuple[str, tuple[str, ...]], dict[str, Float[Tensor, "n"]]] = {}
        for measurement in measurements:
            rule = repr(measurement.rule.to_dict())
            if rule not in kept:
                kept[rule] = _kept(measurement.rule, passages, run.activations)
                if run.logits is not None:
                    predictions[rule] = Predictions.of(run.logits, passages, kept[rule])
            writes = tuple(part.point for part in measurement.subject.coder.writes)
            measurement.count_excluded(passages, run.activations)
            measurement.update(
                passages,
                run.activations,
                kept[rule],
                predictions.get(rule),
                spliced,
                ablated.setdefault((rule, writes), {}),
            )
        done += int(passages.real.sum())
    tell("measure", done, text.n_tokens)


def _chosen(n_batches: int, share: float) -> set[int]:
    """Evenly spaced batches, that share of all, at least one."""
    wanted = min(n_batches, max(1, round(n_batches * share)))
    return {i * n_batches // wanted for i in range(wanted)}


def _facts(lm: LanguageModel, text: HeldOutText, batch_tokens: int, resamples: int, seed: int) -> dict[str, Any]:
    dtype = str(lm.dtype).removeprefix("torch.")
    return {
        "model": lm.identity(),
        "corpus": text.identity,
        "ce_dtype": {"logits": dtype, "probabilities": "float32"},
        "skipped_trained_documents": text.skipped_documents,
        "sequences": len(text.sequences),
        "tokens": text.n_tokens,
        "batch_tokens": batch_tokens,
        "intervals": {"unit": "document", "level": 0.95, "resamples": resamples, "seed": seed},
    }


def _finished(
    measurement: Measurement, text: HeldOutText, facts: dict[str, Any], resamples: int, seed: int
) -> Evaluation:
    row = measurement.rows["coder"]
    sums = row.sums
    kept = row.reconstruction.n_tokens
    metadata = measurement.subject.coder.metadata
    own = {
        "kept_tokens": kept,
        "excluded": dict(measurement.excluded),
        "documents": int((sums["tokens"] > 0).sum()),
        "predictions": int(sums["targets"].sum()) if "targets" in sums else 0,
        "trained_documents": "known"
        if metadata.trained_documents
        else "unknown: some of this text may have trained it",
    }
    assert row.firing is not None
    return Evaluation(
        coder=measurement.coder_record(),
        controls=measurement.control_records(),
        intervals=measurement.intervals(resamples, seed),
        evaluation=facts | own,
        density=row.firing.density,
        contexts=measurement.contexts.table(),
        titles=[document.title for document in text.documents],
        history=list(metadata.history),
    )
