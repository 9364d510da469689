"""A baseline and a steered completion side by side, as events."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

from saescope.activations import KeptRule
from saescope.evaluation.subject import Subject
from saescope.lm import Edit, LanguageModel, Positions
from saescope.server.contexts import significant
from saescope.server.model_worker import Stop
from saescope.server.plain_text import plain
from saescope.server.prompting import PromptTokens, token_text
from saescope.steering import AddFeature, continuation_perplexity
from saescope.text import TokenText

ROWS = ("baseline", "steered")
# Seconds that one completion may take.
PATIENCE = 120.0
# A character has at most four bytes, so no whole one takes more tokens.
_MOST_HELD = 4


def steered_events(
    lm: LanguageModel,
    subject: Subject,
    prompt: PromptTokens,
    stop: Stop,
    *,
    feature: int,
    strength: float,
    maximum: float,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Generator[dict[str, Any], None, None]:
    """start, one event for every token of either row, end. Both rows draw the same random numbers, so at strength 0 they say
    the same. A token's value is the feature's activation there before anything is added; `stop` ends it between two steps."""
    coder = subject.coder
    rule = subject.kept_rule() or KeptRule(lm.special_ids, {})
    adding = AddFeature(coder, feature, (0.0, strength), maximum=maximum, rule=rule)
    watch = _FeatureValues(subject, feature)
    rows = torch.tensor([prompt.ids, prompt.ids], device=lm.device)
    stream = lm.stream(
        rows,
        edits=[*watch.edits, *adding.edits],
        # One step more than is said: it is what tells the last token's value.
        max_new_tokens=max_new_tokens + 1,
        temperature=temperature,
        seed=(seed, seed),
    )
    said: list[list[int]] = [[], []]
    texts = [_Shown(token_text(lm)) for _ in ROWS]
    stopped, until = "length", time.monotonic() + PATIENCE
    pending: list[int | None] = [None, None]
    try:
        for number, step in enumerate(stream):
            stop.check()
            if number == 0:
                yield _start(prompt, adding)
            for row, token in enumerate(pending):
                if token is not None:
                    said[row].append(token)
                    for text, value in texts[row].add(token, watch.values[row]):
                        yield _token(row, text, value)
            # The end of a text is no part of it.
            pending = [None if token in lm.stop_ids else token for token in step]
            if number == max_new_tokens:
                break
            if time.monotonic() > until:
                stopped = "time"
                break
        else:
            stopped = "end"
    finally:
        stream.close()
    for row, shown in enumerate(texts):
        for text, value in shown.rest():
            yield _token(row, text, value)
    stop.check()
    perplexity = {name: _number(continuation_perplexity(lm, prompt.ids, said[row])) for row, name in enumerate(ROWS)}
    yield {"event": "end", "perplexity": perplexity, "stopped": stopped}


def _start(prompt: PromptTokens, adding: AddFeature) -> dict[str, Any]:
    report = adding.report
    return {
        "event": "start",
        "prompt_tokens": len(prompt.ids) - prompt.prefix,
        "norm_of_edit": _number(report.edit[1]),
        "norm_of_residual": _number(report.residual),
    }


def _token(row: int, text: str, value: float) -> dict[str, Any]:
    return {"event": "token", "which": ROWS[row], "t": text, "v": significant(value)}


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else significant(value)


class _FeatureValues:
    """One feature's activation at the last position of each row, in the pass that was made last."""

    def __init__(self, subject: Subject, feature: int) -> None:
        self._coder, self._feature = subject.coder, feature
        self._read: dict[str, Tensor] = {}
        self.values: list[float] = []

    @property
    def edits(self) -> list[Edit]:
        return [
            Edit(part.point, self._reader(part.point), name=f"read {part.point}", reads_only=True)
            for part in self._coder.reads
        ]

    def _reader(self, point: str) -> Callable[[Tensor, Positions], Tensor]:
        def look(values: Tensor, positions: Positions) -> Tensor:
            self._read[point] = values[:, -1].float()
            if len(self._read) == len(self._coder.reads):
                x = torch.cat([self._read[part.point] for part in self._coder.reads], 1)
                self._read.clear()
                self.values = self._coder.encode(x).dense()[:, self._feature].tolist()
            return values

        return look


class _Shown:
    """Tokens of one row as text, each held back until its characters are whole."""

    def __init__(self, text: TokenText) -> None:
        self._text = text
        self._tokens: list[int] = []
        self._held: list[float] = []
        self._shown = 0

    def add(self, token: int, value: float) -> list[tuple[str, float]]:
        self._tokens.append(token)
        self._held.append(value)
        whole = "".join(self._text.pieces(self._tokens))
        if whole.endswith("\ufffd") and len(self._held) < _MOST_HELD:
            return []
        return self._release(whole)

    def rest(self) -> list[tuple[str, float]]:
        return self._release("".join(self._text.pieces(self._tokens))) if self._held else []

    def _release(self, whole: str) -> list[tuple[str, float]]:
        text, value = whole[self._shown :], max(self._held)
        if not text:
            return []
        self._shown = len(whole)
        self._held.clear()
        return [(plain(text), value)]
