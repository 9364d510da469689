"""Labels from a language model: explained from some windows, tried on others, with what an empty explanation would score."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from saescope.errors import ModelError, UsageError
from saescope.features.labels.answers import Answers
from saescope.features.labels.chat import ChatModel, Reply
from saescope.features.labels.excerpts import ExcerptDrawer, Excerpts, WindowSource
from saescope.features.labels.judging import detection_questions, fuzzing_questions, judge, prompts_of
from saescope.features.labels.prompts import DETECTION, EXPLAINER, FUZZING, NULL, explainer_prompt, label_text
from saescope.features.labels.source import features_to_label
from saescope.features.labels.table import LABELS, MODEL, Label, LabelTable, new_version
from saescope.progress import Progress, silent

_ANSWER_TOKENS = 60
# Where nothing has worked from the start, nothing will.
_MOST_FAILURES = 5
# A word-piece of English has four characters or so.
_CHARACTERS_A_TOKEN = 4
_SAMPLED = 8


class Askable(WindowSource, Protocol):
    """An index on disk that gives windows."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class AskingOptions:
    """explained: windows the explainer sees; tried: windows of each side that judges see; per_prompt: of these at once;
    null: whether an empty explanation is tried too; seed, split: of the windows."""

    explained: int = 12
    tried: int = 20
    per_prompt: int = 5
    null: bool = True
    seed: int = 0
    split: str = "section"

    def __post_init__(self) -> None:
        for name in ("explained", "tried", "per_prompt"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1")


@dataclass(frozen=True)
class Cost:
    """What labelling will take, roughly: tokens are characters divided by four. `dollars` at the prices given, per million."""

    features: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None = None


def estimated_cost(
    index: Askable,
    features: Iterable[int],
    options: AskingOptions | None = None,
    *,
    prompt_price: float | None = None,
    completion_price: float | None = None,
    model_name: str = "",
    judge_name: str = "",
) -> Cost:
    """From the very prompts of a few of the features, without asking anybody. Features answered before cost nothing."""
    options = options or AskingOptions()
    wanted: list[int] = features_to_label(index, features).tolist()
    if model_name:
        with Answers(Path(index.path) / LABELS, _request(index, model_name, options, judge_name)) as answers:
            wanted = [feature for feature in wanted if feature not in answers.known]
    if not wanted:
        return Cost(0, 0, 0, 0, 0.0 if prompt_price is not None or completion_price is not None else None)
    drawer = ExcerptDrawer(index, seed=options.seed, split=options.split)
    sample = [wanted[i * len(wanted) // min(_SAMPLED, len(wanted))] for i in range(min(_SAMPLED, len(wanted)))]
    calls, characters, written = 0, 0, 0
    for feature in sample:
        excerpts = _excerpts(drawer, feature, options)
        prompts = [(EXPLAINER, explainer_prompt([one.marked() for one in excerpts.explained]))]
        written += _ANSWER_TOKENS
        for explanation in ("x" * 60, *([NULL] if options.null else [])):
            for fuzzing, questions in _questions(excerpts, feature, options):
                asked = prompts_of(explanation, questions, per_prompt=options.per_prompt)
                prompts += [(FUZZING if fuzzing else DETECTION, prompt) for prompt in asked]
                written += 3 * len(questions) + 2 * len(asked)
        calls += len(prompts)
        characters += sum(len(system) + len(prompt) for system, prompt in prompts)
    scale = len(wanted) / len(sample)
    tokens_in, tokens_out = round(characters / _CHARACTERS_A_TOKEN * scale), round(written * scale)
    priced = prompt_price is not None or completion_price is not None
    dollars = (tokens_in * (prompt_price or 0.0) + tokens_out * (completion_price or 0.0)) / 1e6
    return Cost(len(wanted), round(calls * scale), tokens_in, tokens_out, dollars if priced else None)


def asked_labels(
    index: Askable,
    model: ChatModel,
    features: Iterable[int] | None = None,
    options: AskingOptions | None = None,
    *,
    judge_model: ChatModel | None = None,
    progress: Progress | None = None,
) -> LabelTable:
    """A label for each of `features` (default: all that fire) from `model`, scored by `judge_model` (default: the same).

    The score is detection's balanced accuracy, with what the explanation "None" has at it and at fuzzing as controls; parts has
    fuzzing and all intervals. What is answered is kept as it comes, and the same call goes on from there. A feature whose
    questions fail at every attempt, or get no usable answer, is left out and counted in the table's options ("failed",
    "unusable"); ModelError where the first five all fail.
    """
    options = options or AskingOptions()
    wanted: list[int] = features_to_label(index, features).tolist()
    scorer = judge_model or model
    request = _request(index, model.name, options, scorer.name)
    tell = progress or silent
    with Answers(Path(index.path) / LABELS, request) as answers:
        waiting = [feature for feature in wanted if feature not in answers.known]
        before = len(wanted) - len(waiting)
        tell("asking", before, len(wanted))
        failed: dict[int, str] = {}
        if waiting:
            drawer = ExcerptDrawer(index, seed=options.seed, split=options.split)

            def told(done: int) -> None:
                tell("asking", before + done, len(wanted))

            _ask_all(drawer, model, scorer, waiting, options, answers, failed, told)
        version = new_version(MODEL)
        found = [_label(answers.known[feature], version) for feature in wanted if feature in answers.known]
    labels = tuple(label for label in found if label is not None)
    kept = {**asdict(options), "model": model.name, "judge": scorer.name, "failed": len(failed)}
    return LabelTable(labels, MODEL, version, kept | {"unusable": len(found) - len(labels)})


def _ask_all(
    drawer: ExcerptDrawer,
    model: ChatModel,
    scorer: ChatModel,
    waiting: list[int],
    options: AskingOptions,
    answers: Answers,
    failed: dict[int, str],
    tell: Callable[[int], None],
) -> None:
    """Features side by side; excerpts are drawn here, so that the threads only wait for answers."""
    left = iter(waiting)
    done = 0
    at_once = max(1, min(model.at_once, scorer.at_once))
    stopped = threading.Event()
    model, scorer = _Stoppable(model, stopped), _Stoppable(scorer, stopped)
    with ThreadPoolExecutor(at_once, thread_name_prefix="saescope-asking") as pool:
        running: dict[Future[dict[str, Any]], int] = {}
        try:
            while True:
                while len(running) < at_once and (feature := next(left, None)) is not None:
                    excerpts = _excerpts(drawer, feature, options)
                    running[pool.submit(_ask, model, scorer, excerpts, feature, options)] = feature
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    feature = running.pop(future)
                    try:
                        answers.add(feature, future.result())
                        done += 1
                    except ModelError as error:
                        failed[feature] = str(error)
                        if done == 0 and len(failed) >= min(_MOST_FAILURES, len(waiting)):
                            raise
                    tell(done)
        finally:
            # What is being asked is waited for, and nothing is asked after it; what was finished meanwhile is kept.
            stopped.set()
            for future in running:
                future.cancel()
            for future in wait(running).done:
                if not future.cancelled() and future.exception() is None:
                    answers.add(running[future], future.result())


class _StoppedError(Exception):
    """Nothing more is to be asked."""


class _Stoppable:
    """A chat model that is asked nothing more once `stopped` is set."""

    def __init__(self, model: ChatModel, stopped: threading.Event) -> None:
        self._model, self._stopped = model, stopped
        self.name, self.at_once = model.name, model.at_once

    def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
        if self._stopped.is_set():
            raise _StoppedError
        return self._model.reply(system, prompt, max_tokens)


def _ask(
    model: ChatModel, scorer: ChatModel, excerpts: Excerpts, feature: int, options: AskingOptions
) -> dict[str, Any]:
    """The record of one feature."""
    answer = model.reply(EXPLAINER, explainer_prompt([one.marked() for one in excerpts.explained]), _ANSWER_TOKENS)
    text = label_text(answer.text)
    record: dict[str, Any] = {"text": text, "said": answer.text[:1000], "tried": {}, "null": {}}
    for fuzzing, questions in _questions(excerpts, feature, options):
        name = "fuzzing" if fuzzing else "detection"
        for kind, explanation in (("tried", text), ("null", NULL)):
            if questions and text and (kind == "tried" or options.null):
                found = judge(
                    scorer, explanation, questions, fuzzing=fuzzing, per_prompt=options.per_prompt, seed=options.seed
                )
                record[kind][name] = found.as_json()
    return record


def _questions(excerpts: Excerpts, feature: int, options: AskingOptions) -> list[tuple[bool, Any]]:
    seed = options.seed + feature
    return [
        (False, detection_questions(excerpts.fires, excerpts.silent, seed=seed)),
        (True, fuzzing_questions(excerpts.fires, seed=seed)),
    ]


def _excerpts(drawer: ExcerptDrawer, feature: int, options: AskingOptions) -> Excerpts:
    return drawer.draw(feature, options.explained, options.tried, options.tried)


def _label(record: dict[str, Any], version: str) -> Label | None:
    """None where the explainer said nothing, or the judge nothing usable: such a label must not hide a better one."""
    found = record["tried"].get("detection") or {}
    if not record["text"] or (found.get("asked") and found["score"] is None):
        return None
    interval = found.get("interval")
    controls = {f"null_{name}": part["score"] for name, part in record["null"].items() if part.get("score") is not None}
    return Label(
        int(record["feature"]),
        str(record["text"]),
        found.get("score"),
        None if interval is None else (float(interval[0]), float(interval[1])),
        controls,
        {"said": record["said"], "tried": record["tried"], "null": record["null"]},
        MODEL,
        version,
    )


def _request(index: Askable, model: str, options: AskingOptions, judge_name: str = "") -> dict[str, Any]:
    offsets = np.asarray(index.arrays["feature_offsets"])
    return {
        "firings": hashlib.sha256(offsets.tobytes()).hexdigest(),
        "positions": index.n_positions,
        "prompts": [EXPLAINER, DETECTION, FUZZING],
        "model": model,
        "judge": judge_name or model,
        **asdict(options),
    }
