"""A text through the model and a coder: what fires on each token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saescope.activations import KeptRule
from saescope.errors import TextError, UsageError
from saescope.evaluation.subject import Subject
from saescope.features.index import FeatureIndex
from saescope.lm import LanguageModel
from saescope.server.answers import TOKEN_LIMIT
from saescope.server.contexts import merged_spans, significant, significant_all
from saescope.text import SequenceOptions, TokenText
from saescope.text.encoding import TextEncoder
from saescope.text.sequences import Sequencer

_STRONGEST = 50


@dataclass(frozen=True)
class PromptTokens:
    """ids: of the whole prompt, with `prefix` tokens put before the text by itself; truncated: whether text was cut off."""

    ids: list[int]
    prefix: int
    truncated: bool


def tokenized(
    lm: LanguageModel,
    text: str | None,
    turns: Sequence[Mapping[str, str]] | None,
    options: SequenceOptions,
    *,
    reply: bool = False,
) -> PromptTokens:
    """A prompt's tokens, as the coder's training text was cut: after the tokenizer's BOS, or what stood between documents.
    reply: write the beginning of the model's own turn after `turns`.

    TextError for a prompt without tokens; UsageError for turns where the tokenizer has no chat template.
    """
    encoder, before = _encoder(lm, options)
    if turns is not None:
        text = _conversation(lm, turns, reply)
    ids = encoder.encode([text or ""])[0].tokens.tolist()
    if turns is not None and before and ids[: len(before)] == list(before):
        ids = ids[len(before) :]
    if not ids:
        raise TextError("the prompt has no tokens; type some text")
    most = TOKEN_LIMIT - len(before)
    return PromptTokens([*before, *ids[:most]], len(before), len(ids) > most)


def _conversation(lm: LanguageModel, turns: Sequence[Mapping[str, str]], reply: bool) -> str:
    if not lm.tokenizer.chat_template:
        raise UsageError(f"the tokenizer of {lm.name} has no chat template; send text instead of turns")
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    try:
        return str(lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TextError(
            f"the chat template refuses these turns ({reason}); begin with the user's, then alternate"
        ) from error


@lru_cache(maxsize=8)
def _encoder(lm: LanguageModel, options: SequenceOptions) -> tuple[TextEncoder, tuple[int, ...]]:
    sequencer = Sequencer([], lm.tokenizer, options)
    separator = () if sequencer.separator is None else (sequencer.separator,)
    return TextEncoder(lm.tokenizer), tuple(sequencer.prefix) or separator


@lru_cache(maxsize=8)
def token_text(lm: LanguageModel) -> TokenText:
    return TokenText(lm.tokenizer)


@dataclass(frozen=True)
class Encoded:
    """Codes of a prompt. kept [tokens]; entries sorted by token: token, feature, value."""

    ids: list[int]
    prefix: int
    truncated: bool
    kept: NDArray[np.bool_]
    token: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: NDArray[np.float32]


def encoded(lm: LanguageModel, subjects: Sequence[Subject], prompt: PromptTokens) -> list[Encoded]:
    """One run of the model, the codes of every coder on it. CoderError where a coder is another model's."""
    for subject in subjects:
        subject.check_model(lm)
    points = list(dict.fromkeys(point for subject in subjects for point in subject.points))
    tokens = torch.tensor([prompt.ids], device=lm.device)
    activations = lm.run(tokens, capture=points).activations
    found = []
    for subject in subjects:
        rule = subject.rule_for(tokens, activations, lm.special_ids)
        found.append(_codes(subject, rule, tokens, activations, prompt))
    return found


@torch.no_grad()
def _codes(
    subject: Subject,
    rule: KeptRule,
    tokens: torch.Tensor,
    activations: Mapping[str, torch.Tensor],
    prompt: PromptTokens,
) -> Encoded:
    kept = rule.kept(tokens, activations)
    # What was put before the text is no part of it, whatever fires there.
    kept[:, : prompt.prefix] = False
    x = torch.cat([activations[part.point][kept.to(activations[part.point].device)] for part in subject.coder.reads], 1)
    codes = subject.coder.encode(x.float())
    fires = codes.values > 0
    places = kept[0].nonzero().flatten().to(codes.indices.device)
    return Encoded(
        prompt.ids,
        prompt.prefix,
        prompt.truncated,
        kept[0].cpu().numpy(),
        places[codes.rows()[fires]].cpu().numpy(),
        codes.indices[fires].cpu().numpy(),
        codes.values[fires].float().cpu().numpy(),
    )


@dataclass(frozen=True)
class OnText:
    """A prompt's codes on its text, in spans: tokens that only together make whole characters are one, with each feature's
    largest value. texts, kept [spans]; entries sorted by span, then feature."""

    texts: list[str]
    kept: list[bool]
    span: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: NDArray[np.float32]

    @staticmethod
    def of(lm: LanguageModel, codes: Encoded) -> OnText:
        spans = merged_spans(token_text(lm).pieces(codes.ids[codes.prefix :]))
        span_of_token = np.zeros(len(codes.ids), np.int64)
        kept = []
        for number, (_, start, end) in enumerate(spans):
            own = slice(codes.prefix + start, codes.prefix + end)
            span_of_token[own] = number
            kept.append(bool(codes.kept[own].any()))
        entries = _by_span(span_of_token[codes.token], codes.feature, codes.value)
        return OnText([text for text, _, _ in spans], kept, *entries)

    def tokens(self, top: int) -> list[dict[str, Any]]:
        """`answers.PromptToken`s, each with its strongest features."""
        order = np.lexsort((self.feature, -self.value, self.span))
        bounds = np.searchsorted(self.span[order], np.arange(len(self.texts) + 1))
        return [
            {
                "t": text,
                "k": kept,
                "top": [
                    {"feature": int(self.feature[i]), "value": significant(float(self.value[i]))}
                    for i in order[bounds[number] : bounds[number + 1]][:top]
                ],
            }
            for number, (text, kept) in enumerate(zip(self.texts, self.kept, strict=True))
        ]

    def fires(self, feature: int) -> dict[str, Any]:
        """`answers.Fires`"""
        own = self.feature == feature
        return {"at": self.span[own].tolist(), "values": significant_all(self.value[own])}

    def everywhere(self, feature: int) -> list[float]:
        """The feature's value on every span."""
        row = np.zeros(len(self.texts), np.float32)
        own = self.feature == feature
        row[self.span[own]] = self.value[own]
        return significant_all(row)


def prompt_result(
    lm: LanguageModel, index: FeatureIndex, codes: Encoded, pinned: Iterable[int], top: int
) -> dict[str, Any]:
    """`answers.PromptResult`, its labels left to be filled in by who knows them."""
    on_text = OnText.of(lm, codes)
    tokens = on_text.tokens(top)
    wanted = {str(one): on_text.everywhere(one) for one in pinned}
    strongest = _strongest(index, on_text)
    mentioned = {entry["feature"] for token in tokens for entry in token["top"]}
    mentioned |= {entry["feature"] for entry in strongest} | {int(one) for one in wanted}
    return {
        "tokens": tokens,
        "pinned": wanted,
        "labels": {},
        "maxima": {str(one): significant(float(index.maximum[one])) for one in sorted(mentioned)},
        "strongest": strongest,
        "truncated": codes.truncated,
    }


def feature_peaks(codes: Encoded) -> dict[int, float]:
    """Each feature's largest activation on the text."""
    peaks: dict[int, float] = {}
    for feature, value in zip(codes.feature.tolist(), codes.value.tolist(), strict=True):
        peaks[feature] = max(value, peaks.get(feature, 0.0))
    return peaks


def _by_span(
    span: NDArray[np.int64], feature: NDArray[np.int64], value: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Entries with one for each (span, feature): the largest."""
    order = np.lexsort((-value, feature, span))
    span, feature, value = span[order], feature[order], value[order]
    first = np.ones(len(span), bool)
    first[1:] = (span[1:] != span[:-1]) | (feature[1:] != feature[:-1])
    return span[first], feature[first], value[first]


def _strongest(index: FeatureIndex, on_text: OnText) -> list[dict[str, Any]]:
    """Each feature at its strongest token, the least to be expected first: its share of its maximum, times the surprise
    (in nats) that it fires at all."""
    span, feature, value = on_text.span, on_text.feature, on_text.value
    order = np.lexsort((span, -value, feature))
    first = np.ones(len(order), bool)
    first[1:] = feature[order][1:] != feature[order][:-1]
    best = order[first]
    maximum = index.maximum[feature[best]]
    # A feature that never fired on the indexed text is at its largest now, and as rare as that text can tell.
    share = np.where(maximum > 0, value[best] / np.where(maximum > 0, maximum, 1), 1.0)
    surprise = -np.log(np.maximum(index.density[feature[best]], 1 / (1 + index.n_tokens)))
    unusual = share * np.maximum(surprise, 0)
    ranked = np.lexsort((feature[best], -unusual))[:_STRONGEST]
    return [
        {
            "feature": int(feature[best[i]]),
            "value": significant(float(value[best[i]])),
            "token": int(span[best[i]]),
            "unusual": significant(float(unusual[i])) if math.isfinite(unusual[i]) else 0.0,
            **on_text.fires(int(feature[best[i]])),
        }
        for i in ranked
    ]
