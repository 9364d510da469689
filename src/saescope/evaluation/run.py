"""Measuring coders on text that trained none of them: one original run of each batch, shared by all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.activations import Exclusions, KeptRule
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
from saescope.progress import Progress, silent
from saescope.text import Corpus, Document

# Tokens on which controls are fitted, spread over the text.
_SAMPLE_TOKENS = 16384
# Logits of a batch, in elements; a batch is never longer than _MOST_TOKENS either.
_LOGIT_ELEMENTS = 2**26
_MOST_TOKENS = 8192
# Activations captured of a batch, in elements: coders at every layer of a model ask for all of them at once.
_CAPTURED_ELEMENTS = 2**27
# Samples and controls of the coders measured together, in bytes. More coders are measured in several parts, each with its
# own run of the original model, which is one of the many that a coder needs anyway.
_PART_BYTES = 2**30

Given = Subject | SparseCoder | str | Path


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
    no_controls: str = "",
    progress: Progress | None = None,
) -> list[Evaluation]:
    """Every "Core" metric of METRICS.md with its controls and intervals, for each coder (a coder or its folder).

    Measured on the documents of `corpus` that trained none of the coders: all of them, or about `max_tokens` spread over
    them; CE and KL, which cost several more runs of the model, on about `ce_tokens` of these. `batch_tokens`: run at once
    (default: by the size of the vocabulary and the number of hook points). `no_controls`: why they are left out, where they
    are; each costs as much as the coder. `progress(stage, tokens done, tokens in all)`.

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
    tell = progress or silent
    started = time.perf_counter()
    trained = {document for subject in subjects for document in subject.coder.metadata.trained_documents}
    tell("tokenize", 0, 1)
    text = held_out_text(corpus, lm.tokenizer, subjects[0].sequence_options(), trained, max_tokens)
    tell("tokenize", 1, 1)
    width = sum(lm.width(point) for point in _points(subjects))
    batch_tokens = batch_tokens or min(
        _MOST_TOKENS, max(1, _LOGIT_ELEMENTS // lm.vocab_size), max(1, _CAPTURED_ELEMENTS // width)
    )
    facts = _facts(lm, text, batch_tokens, resamples, seed)
    found: list[Evaluation] = []
    parts = _in_parts(subjects, lm.dtype.itemsize)
    for number, part in enumerate(parts):
        told = _of_part(tell, number, len(parts))
        part = [subject.on(lm.device) for subject in part]
        measurements = _prepared(part, lm, text, batch_tokens, n_contexts, seed, no_controls, told)
        _measure(measurements, lm, text, batch_tokens, ce_tokens, told)
        found += [_finished(measurement, text, facts, resamples, seed) for measurement in measurements]
    for evaluation in found:
        evaluation.evaluation["seconds"] = round(time.perf_counter() - started, 1)
    return found


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


def _in_parts(subjects: list[Subject], itemsize: int) -> list[list[Subject]]:
    """Consecutive coders whose samples and controls fit the memory together; at least one at a time."""
    parts: list[list[Subject]] = []
    room = 0
    for subject in subjects:
        coder = subject.coder
        size = _SAMPLE_TOKENS * coder.d_in * itemsize + 4 * coder.d_sae * (coder.d_in + coder.d_out)
        if not parts or size > room:
            parts.append([])
            room = _PART_BYTES
        parts[-1].append(subject)
        room -= size
    return parts


def _of_part(tell: Progress, number: int, n_parts: int) -> Progress:
    return lambda stage, done, total: tell(stage, number * total + done, n_parts * total)


def _by_rule(rules: Sequence[KeptRule]) -> list[tuple[KeptRule, list[int]]]:
    """The distinct rules, each with the coders (by number) that it is of: what it leaves out is found once for all."""
    groups: dict[str, tuple[KeptRule, list[int]]] = {}
    for index, rule in enumerate(rules):
        groups.setdefault(repr(rule.to_dict()), (rule, []))[1].append(index)
    return list(groups.values())


def _run(lm: LanguageModel, passages: Passages, points: list[str], *, logits: bool = False) -> Run:
    tokens = passages.tokens.clamp(min=0)
    return lm.run(tokens, attention_mask=passages.real.long(), capture=points, logits=logits)


def _points(subjects: Sequence[Subject]) -> list[str]:
    return list(dict.fromkeys(point for subject in subjects for point in subject.points))


def _exclusions(
    rule: KeptRule, passages: Passages, activations: Activations
) -> tuple[Exclusions, Bool[Tensor, "batch seq"]]:
    """What the rule leaves out, and the positions that count: those kept, of a document."""
    device = next(iter(activations.values())).device
    left_out = rule.exclusions(passages.tokens.to(device), activations)
    return left_out, left_out.kept & (passages.document >= 0).to(device)


def _prepared(
    subjects: list[Subject],
    lm: LanguageModel,
    text: HeldOutText,
    batch_tokens: int,
    n_contexts: int,
    seed: int,
    no_controls: str,
    tell: Progress,
) -> list[Measurement]:
    """Measurements with their controls fitted on a sample of the text."""
    rules: list[KeptRule] = []
    samples: list[list[Tensor]] = [[] for _ in subjects]
    part = HeldOutText(thinned(text.sequences, _SAMPLE_TOKENS), text.documents, 0, {})
    gathered = 0
    for passages in part.batches(batch_tokens):
        tell("fit controls", gathered, part.n_tokens)
        activations = _run(lm, passages, _points(subjects)).activations
        if not rules:
            rules = [s.rule_for(passages.tokens, activations, lm.special_ids) for s in subjects]
        for rule, indices in _by_rule(rules):
            _, kept = _exclusions(rule, passages, activations)
            for index in indices:
                reads = subjects[index].coder.reads
                samples[index].append(torch.cat([activations[part.point][kept] for part in reads], 1).cpu())
        gathered += int(passages.real.sum())
    tell("fit controls", gathered, part.n_tokens)
    found = []
    for index, subject in enumerate(subjects):
        sample = torch.cat(samples[index]).float()
        # Given up one by one: all of them in float32 beside the originals would be thrice the memory.
        samples[index] = []
        if not sample.shape[0]:
            raise TextError(
                "every token of the evaluation text is a special token or an attention sink; use other text"
            )
        found.append(
            Measurement(
                subject,
                rules[index],
                sample,
                len(text.documents),
                n_contexts=n_contexts,
                seed=seed,
                no_controls=no_controls,
            )
        )
    return found


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
    by_rule = _by_rule([measurement.rule for measurement in measurements])
    with_ce = _chosen(len(batches), 1.0 if ce_tokens is None else ce_tokens / max(1, text.n_tokens))
    done = 0
    for number, passages in enumerate(batches):
        tell("measure", done, text.n_tokens)
        _measure_batch(measurements, by_rule, lm, passages, points, logits=number in with_ce)
        done += int(passages.real.sum())
    tell("measure", done, text.n_tokens)


def _measure_batch(
    measurements: list[Measurement],
    by_rule: list[tuple[KeptRule, list[int]]],
    lm: LanguageModel,
    passages: Passages,
    points: list[str],
    *,
    logits: bool,
) -> None:
    """A function of its own so that a batch's activations and logits are gone before the next one's come."""
    run = _run(lm, passages, points, logits=logits)
    spliced = SplicedRuns(lm, passages, run.activations)
    for rule, indices in by_rule:
        left_out, kept = _exclusions(rule, passages, run.activations)
        # Probabilities over the vocabulary are the largest thing here, so there are never those of two rules.
        predictions = None
        predictions = None if run.logits is None else Predictions.of(run.logits, passages, kept)
        ablated: dict[tuple[str, ...], dict[bytes, Float[Tensor, "n"]]] = {}
        for measurement in (measurements[index] for index in indices):
            writes = tuple(part.point for part in measurement.subject.coder.writes)
            measurement.count_excluded(left_out)
            measurement.update(passages, run.activations, kept, predictions, spliced, ablated.setdefault(writes, {}))


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
