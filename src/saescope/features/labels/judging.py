"""Detection and fuzzing: how well a judge who reads an explanation tells where a feature is active.

Detection shows windows, half of them silent, and asks which are active. Fuzzing shows active windows with tokens marked, in
half of them the active ones and in half as many silent ones, and asks where the marks are right. Both are balanced accuracies
on windows that the explainer has not seen. An explanation that says nothing is the control of either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saescope.features.labels.chat import ChatModel
from saescope.features.labels.excerpts import Excerpt
from saescope.features.labels.prompts import DETECTION, FUZZING, decisions, judge_prompt

_PER_ANSWER = 6
_SPARE = 40
_RESAMPLES = 1000
# Of one window, drawn again and again, an interval has no width: it would look certain.
_LEAST_WINDOWS = 5


@dataclass(frozen=True)
class Question:
    """A window as it is shown, and what a judge should say of it."""

    shown: str
    truth: bool


@dataclass(frozen=True)
class Judged:
    """score: balanced accuracy over the windows that got a usable answer, None where a side has none or more than half went
    without; interval: 95 %, windows of each side drawn with replacement, None where a side has fewer than five."""

    score: float | None
    interval: tuple[float, float] | None
    answered: int
    asked: int

    def as_json(self) -> dict[str, Any]:
        return {"score": self.score, "interval": self.interval, "answered": self.answered, "asked": self.asked}


def detection_questions(fires: Sequence[Excerpt], silent: Sequence[Excerpt], *, seed: int) -> list[Question]:
    """As many silent as active windows, in random order."""
    n = min(len(fires), len(silent))
    found = [Question(excerpt.plain(), True) for excerpt in fires[:n]]
    # Neighbours come first in `silent`; where the rest are too few, neighbours make up for them, and the other way round.
    near = [excerpt for excerpt in silent if excerpt.neighbour]
    far = [excerpt for excerpt in silent if not excerpt.neighbour]
    n_near = max(min(len(near), n // 2), n - len(far))
    found += [Question(excerpt.plain(), False) for excerpt in [*near[:n_near], *far[: n - n_near]]]
    return _shuffled(found, seed)


def fuzzing_questions(fires: Sequence[Excerpt], *, seed: int) -> list[Question]:
    """Every other window with its active tokens marked, the others with as many silent ones; windows without enough of these
    are left out."""
    rng = np.random.default_rng([seed, 1])
    right: list[Question] = []
    wrong: list[Question] = []
    for excerpt in fires:
        silent = [at for at, value in enumerate(excerpt.values) if value == 0 and excerpt.pieces[at].strip()]
        n_active = sum(excerpt.active)
        if len(wrong) < len(right) and len(silent) >= n_active:
            chosen = set(rng.choice(len(silent), n_active, replace=False).tolist())
            marks = {silent[at] for at in chosen}
            wrong.append(Question(excerpt.marked([at in marks for at in range(len(excerpt.pieces))]), False))
        else:
            right.append(Question(excerpt.marked(), True))
    n = min(len(right), len(wrong))
    return _shuffled([*right[:n], *wrong[:n]], seed)


def _shuffled(questions: list[Question], seed: int) -> list[Question]:
    order = np.random.default_rng([seed, 2]).permutation(len(questions))
    return [questions[at] for at in order]


def prompts_of(explanation: str, questions: Sequence[Question], *, per_prompt: int) -> list[str]:
    """What `judge` will ask."""
    starts = range(0, len(questions), per_prompt)
    return [judge_prompt(explanation, [one.shown for one in questions[i : i + per_prompt]]) for i in starts]


def judge(
    model: ChatModel, explanation: str, questions: Sequence[Question], *, fuzzing: bool, per_prompt: int, seed: int
) -> Judged:
    """Ask about all windows, `per_prompt` at once. An answer that is no list of that many zeros and ones leaves its windows
    unanswered; it is not guessed at, and not asked again, since the same question gets the same answer."""
    said: list[bool] = []
    truth: list[bool] = []
    for number, prompt in enumerate(prompts_of(explanation, questions, per_prompt=per_prompt)):
        own = questions[number * per_prompt : (number + 1) * per_prompt]
        answer = model.reply(FUZZING if fuzzing else DETECTION, prompt, _SPARE + _PER_ANSWER * len(own))
        found = decisions(answer.text, len(own))
        if found is not None:
            said += found
            truth += [question.truth for question in own]
    score, interval = _balanced(np.array(said, bool), np.array(truth, bool), seed)
    if 2 * len(said) < len(questions):
        score, interval = None, None
    return Judged(score, interval, len(said), len(questions))


def _balanced(
    said: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], seed: int
) -> tuple[float | None, tuple[float, float] | None]:
    sides = [(said == truth)[truth], (said == truth)[~truth]]
    if min(side.size for side in sides) == 0:
        return None, None
    score = float((sides[0].mean() + sides[1].mean()) / 2)
    if min(side.size for side in sides) < _LEAST_WINDOWS:
        return score, None
    rng = np.random.default_rng([seed, 3])
    drawn = [side[rng.integers(side.size, size=(_RESAMPLES, side.size))].mean(1) for side in sides]
    low, high = np.quantile((drawn[0] + drawn[1]) / 2, [0.025, 0.975])
    return score, (float(low), float(high))
