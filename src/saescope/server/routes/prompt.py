"""A person's own text: what fires on it, and how two texts or two coders differ."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from saescope.errors import UsageError
from saescope.lm import LanguageModel
from saescope.server import answers
from saescope.server.asking import CoderHere, ServedNow, ShownLabels, known_feature, sent
from saescope.server.contexts import significant
from saescope.server.model_worker import Stop
from saescope.server.prompting import OnText, encoded, feature_peaks, prompt_result, tokenized
from saescope.server.served_coder import ServedCoder

router = APIRouter(tags=["prompt"])
_DIFFERENCES = 100


def turns_of(asked: answers.TextAsked) -> list[dict[str, str]] | None:
    return None if asked.turns is None else [turn.model_dump() for turn in asked.turns]


def _labelled(result: dict[str, Any], coder: ServedCoder) -> dict[str, Any]:
    shown = ShownLabels.of(coder)
    labels = {feature: shown[int(feature)] for feature in result["maxima"]}
    result["labels"] = {feature: label for feature, label in labels.items() if label is not None}
    return result


@router.post("/coders/{id}/prompt", response_model=answers.PromptResult)
async def prompt(asked: answers.PromptAsked, coder: CoderHere, served: ServedNow, request: Request) -> Response:
    """The features of every token of a text. `strongest` is the search by text: what fires most, and most unexpectedly."""
    for feature in asked.features:
        known_feature(coder, feature)

    def work(lm: LanguageModel, stop: Stop) -> dict[str, Any]:
        subject = coder.subject(lm.device)
        tokens = tokenized(lm, asked.text, turns_of(asked), subject.sequence_options())
        stop.check()
        codes = encoded(lm, [subject], tokens)[0]
        return _labelled(prompt_result(lm, coder.index, codes, asked.features, asked.top), coder)

    return sent(await served.worker.run(request, work))


@router.post("/compare/prompts", response_model=answers.ComparedPrompts)
async def compare_prompts(asked: answers.ComparePromptsAsked, served: ServedNow, request: Request) -> Response:
    """Where two texts differ: each feature's largest activation on either, and b - a, by its share of the feature's maximum."""
    coder = served.coder(asked.coder)

    def work(lm: LanguageModel, stop: Stop) -> dict[str, Any]:
        subject = coder.subject(lm.device)
        codes = []
        for text in (asked.a, asked.b):
            stop.check()
            codes.append(encoded(lm, [subject], tokenized(lm, text, None, subject.sequence_options()))[0])
        peaks = [feature_peaks(one) for one in codes]
        shown = ShownLabels.of(coder)
        rows = []
        for feature in peaks[0].keys() | peaks[1].keys():
            a, b = (one.get(feature, 0.0) for one in peaks)
            share = abs(a - b) / (float(coder.index.maximum[feature]) or max(a, b))
            rows.append((share, feature, a, b))
        rows.sort(key=lambda row: (-row[0], row[1]))
        on_a, on_b = (OnText.of(lm, one) for one in codes)
        return {
            "features": [
                {
                    "feature": feature,
                    "label": shown[feature],
                    "a": significant(a),
                    "b": significant(b),
                    "difference": significant(b - a),
                    "on_a": on_a.fires(feature),
                    "on_b": on_b.fires(feature),
                }
                for _, feature, a, b in rows[:_DIFFERENCES]
            ],
            "a": {"tokens": on_a.tokens(10)},
            "b": {"tokens": on_b.tokens(10)},
        }

    return sent(await served.worker.run(request, work))


@router.post("/compare/coders", response_model=answers.ComparedCoders)
async def compare_coders(asked: answers.CompareCodersAsked, served: ServedNow, request: Request) -> Response:
    """The same text through several coders, in one run of the model."""
    coders = [served.coder(identity) for identity in asked.coders]

    def work(lm: LanguageModel, stop: Stop) -> dict[str, Any]:
        subjects = [coder.subject(lm.device) for coder in coders]
        options = {subject.sequence_options().bos for subject in subjects}
        if len(options) > 1:
            raise UsageError(
                "these coders were trained with and without a token before each text; compare them one by one"
            )
        tokens = tokenized(lm, asked.text, None, subjects[0].sequence_options())
        stop.check()
        results = []
        for coder, codes in zip(coders, encoded(lm, subjects, tokens), strict=True):
            result = _labelled(prompt_result(lm, coder.index, codes, (), 10), coder)
            results.append({**result, "coder": coder.id})
        return {"results": results}

    return sent(await served.worker.run(request, work))
