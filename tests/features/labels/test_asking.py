"""Labels from scripted language models whose judgement is known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.labels.planted import FEATURE, RARE_FEATURE, SEA, PlantedIndex
from tests.features.labels.served import Asked, Served, serving

from saescope.errors import ModelError, UsageError
from saescope.features.labels import answers as answers_module
from saescope.features.labels.answers import Answers
from saescope.features.labels.asking import AskingOptions, asked_labels, estimated_cost
from saescope.features.labels.chat import Reply
from saescope.features.labels.endpoint import Endpoint, Patience
from saescope.features.labels.excerpts import Excerpt, ExcerptDrawer
from saescope.features.labels.halves import HELD_OUT, LABEL, halves_of
from saescope.features.labels.judging import detection_questions, fuzzing_questions
from saescope.features.labels.prompts import EXPLAINER, FUZZING, decisions, label_text

OPTIONS = AskingOptions(explained=8, tried=12, per_prompt=4)
SEA_WORDS = [word.strip() for word in SEA]


class Scripted:
    """A chat model in memory that counts what it is asked."""

    def __init__(self, judge: Callable[[str, str, bool], bool], explanation: str = "the sea") -> None:
        self.name, self.at_once = "scripted", 1
        self.judge, self.explanation = judge, explanation
        self.explained: list[str] = []
        self.judged: list[str] = []

    def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
        if system == EXPLAINER:
            self.explained.append(prompt)
            return Reply(self.explanation)
        self.judged.append(prompt)
        return Reply(json.dumps([int(self.judge(*one, system == FUZZING)) for one in shown(prompt)]))


def shown(prompt: str) -> list[tuple[str, str]]:
    """(description, excerpt) of everything that a judge is asked about."""
    description = prompt.splitlines()[0].removeprefix("Description: ")
    return [(description, found) for found in re.findall(r"^\d+\. (.*)$", prompt, re.M)]


def line_oracle(description: str, excerpt: str, fuzzing: bool) -> bool:
    """Knows that the feature fires on line breaks, when it is told."""
    if description == "None":
        return False
    return "<<⏎>>" in excerpt if fuzzing else "⏎" in excerpt


def test_oracle_scores_everything_and_nothing_scores_half(planted: PlantedIndex) -> None:
    model = Scripted(line_oracle, "line breaks")
    label = asked_labels(planted, model, [FEATURE["line"]], OPTIONS).labels[0]
    assert (label.text, label.score, label.interval) == ("line breaks", 1.0, (1.0, 1.0))
    assert label.parts["tried"]["fuzzing"]["score"] == 1.0
    assert label.controls == {"null_detection": 0.5, "null_fuzzing": 0.5}


@pytest.mark.parametrize(("flips", "score"), [("all", 0.0), ("active", 0.0), ("yes", 0.5)])
def test_scores_are_what_the_judge_earns(planted: PlantedIndex, flips: str, score: float) -> None:
    def judge(description: str, excerpt: str, fuzzing: bool) -> bool:
        return True if flips == "yes" else not line_oracle("x", excerpt, fuzzing)

    label = asked_labels(planted, Scripted(judge), [FEATURE["line"]], OPTIONS).labels[0]
    assert label.score == score


def test_half_right_on_one_side_is_three_quarters(planted: PlantedIndex) -> None:
    seen = 0

    def judge(description: str, excerpt: str, fuzzing: bool) -> bool:
        nonlocal seen
        if "⏎" not in excerpt or fuzzing or description == "None":
            return False
        seen += 1
        return seen % 2 == 0

    label = asked_labels(planted, Scripted(judge), [FEATURE["line"]], OPTIONS).labels[0]
    assert label.score == pytest.approx(0.75)
    assert label.interval is not None
    assert label.interval[0] < 0.75 < label.interval[1]


@pytest.mark.parametrize(("tried", "known"), [(4, False), (5, True)])
def test_few_windows_have_no_interval(planted: PlantedIndex, tried: int, known: bool) -> None:
    options = AskingOptions(explained=8, tried=tried, per_prompt=4)
    label = asked_labels(planted, Scripted(line_oracle), [FEATURE["line"]], options).labels[0]
    assert label.score == 1.0
    assert (label.interval is not None) == known


def test_explainer_and_judge_never_see_the_same_text(planted: PlantedIndex) -> None:
    half = halves_of(planted).half
    drawer = ExcerptDrawer(planted)
    text = np.array(["".join(planted.pieces([token])) for token in planted.arrays["tokens"]])
    whole = "".join(text).replace("\n", "⏎")
    places = np.cumsum([0, *(len(piece) for piece in text)])
    for feature in (FEATURE["Alaska"], FEATURE["court"]):
        found = drawer.draw(feature, 10, 20, 20)
        assert len(found.explained) == 10
        assert len(found.fires) == 20
        for excerpt, side in [(e, LABEL) for e in found.explained] + [
            (e, HELD_OUT) for e in found.fires + found.silent
        ]:
            start = whole.find(excerpt.plain())
            assert whole.find(excerpt.plain(), start + 1) == -1
            inside = half[
                np.searchsorted(places, start, "right") - 1 : np.searchsorted(places, start + len(excerpt.plain()))
            ]
            assert set(inside.tolist()) <= {side, -1}


def test_silent_windows_are_silent_throughout_and_half_are_neighbours(planted: PlantedIndex) -> None:
    drawer = ExcerptDrawer(planted)
    found = drawer.draw(FEATURE["New before York"], 10, 20, 20)
    assert all(max(excerpt.values) == 0 for excerpt in found.silent)
    assert all(max(excerpt.values) > 0 for excerpt in found.fires + found.explained)
    near = [excerpt for excerpt in found.silent if excerpt.neighbour]
    assert len(near) == 10
    # The hard ones: "New" without "York".
    assert sum(" New" in excerpt.pieces or " new" in excerpt.pieces for excerpt in near) >= 8
    questions = detection_questions(found.fires, found.silent, seed=0)
    assert sum(question.truth for question in questions) == len(questions) / 2 == 20


def test_fuzzing_marks_as_many_tokens_wrongly_as_rightly() -> None:
    excerpts = [Excerpt((" a", " b", " c", " d"), (0, 2.0, 1.9, 0)) for _ in range(6)]
    questions = fuzzing_questions(excerpts, seed=0)
    assert len(questions) == 6
    assert {question.shown for question in questions if question.truth} == {" a<< b c>> d"}
    assert {question.shown for question in questions if not question.truth} == {"<< a>> b c<< d>>"}


def test_faint_tokens_are_not_marked() -> None:
    assert Excerpt((" a", " b", " c"), (0.1, 2.0, 0.0)).marked() == " a<< b>> c"


def test_rare_feature_is_explained_and_not_scored(planted: PlantedIndex) -> None:
    model = Scripted(line_oracle, "zebras")
    label = asked_labels(planted, model, [RARE_FEATURE], OPTIONS).labels[0]
    assert (label.text, label.score, label.controls) == ("zebras", None, {})
    assert model.judged == []


def test_estimate_is_what_is_asked(planted: PlantedIndex) -> None:
    features = [FEATURE["line"], FEATURE["Alaska"]]
    cost = estimated_cost(planted, features, OPTIONS, prompt_price=1.0, completion_price=10.0, model_name="scripted")
    # An estimate leaves nothing behind.
    assert not (planted.path / "labels").exists()
    model = Scripted(line_oracle, "x" * 60)
    asked_labels(planted, model, features, OPTIONS)
    assert cost.calls == len(model.explained) + len(model.judged)
    characters = sum(map(len, model.explained + model.judged))
    assert characters / 4 <= cost.prompt_tokens < characters / 4 + 150 * cost.calls
    assert cost.dollars == pytest.approx((cost.prompt_tokens + 10 * cost.completion_tokens) / 1e6)
    # What is answered costs nothing more.
    again = estimated_cost(planted, features, OPTIONS, model_name="scripted")
    assert (again.features, again.calls, again.dollars) == (0, 0, None)


def test_finished_features_are_not_asked_again(planted: PlantedIndex) -> None:
    features = sorted([FEATURE["line"], FEATURE["sea"], FEATURE["court"]])
    asked_labels(planted, Scripted(line_oracle), features[:2], OPTIONS)
    model = Scripted(line_oracle, "other")
    table = asked_labels(planted, model, features, OPTIONS)
    assert [label.text for label in table.labels] == ["the sea", "the sea", "other"]
    assert len(model.explained) == 1
    # Other questions are not answered by these.
    other = Scripted(line_oracle, "anew")
    asked_labels(planted, other, features[:1], AskingOptions(explained=8, tried=12, per_prompt=3))
    assert len(other.explained) == 1


def test_progress_counts_the_features_wanted(planted: PlantedIndex) -> None:
    features = sorted([FEATURE["line"], FEATURE["sea"], FEATURE["court"]])
    asked_labels(planted, Scripted(line_oracle), features[:1], OPTIONS)
    seen: list[tuple[str, int, int]] = []
    asked_labels(planted, Scripted(line_oracle), features[1:], OPTIONS, progress=lambda *told: seen.append(told))
    assert seen == [("asking", 0, 2), ("asking", 1, 2), ("asking", 2, 2)]


def test_interruption_asks_nothing_more_and_keeps_what_is_finished(planted: PlantedIndex) -> None:
    """It comes when one feature is done, another at its last question and a third at its first."""
    elsewhere = PlantedIndex(planted.arrays, planted.documents, planted.d_sae, planted.path / "other")
    court, sea = (Scripted(line_oracle) for _ in range(2))
    asked_labels(elsewhere, court, [FEATURE["court"]], OPTIONS)
    asked_labels(elsewhere, sea, [FEATURE["sea"]], OPTIONS)
    interrupted = threading.Event()

    class Waiting(Scripted):
        def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
            if prompt in (court.judged[-1], sea.explained[0]):
                assert interrupted.wait(30)
            return super().reply(system, prompt, max_tokens)

    model = Waiting(line_oracle)
    model.at_once = 3

    def told(stage: str, done: int, total: int) -> None:
        if done == 1:
            interrupted.set()
            raise KeyboardInterrupt

    features = [FEATURE[name] for name in ("line", "court", "sea")]
    with pytest.raises(KeyboardInterrupt):
        asked_labels(planted, model, features, OPTIONS, progress=told)
    assert len(set(sea.judged) & set(model.judged)) < len(sea.judged)
    again = Scripted(line_oracle)
    asked_labels(planted, again, features, OPTIONS)
    assert again.explained == sea.explained


def test_torn_line_is_asked_again_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    with Answers(tmp_path, {"a": 1}) as answers:
        answers.add(1, {"text": "one"})
        answers.add(2, {"text": "two"})
    data = answers.path.read_bytes()
    answers.path.write_bytes(data[:-9])
    with Answers(tmp_path, {"a": 1}) as again:
        assert list(again.known) == [1]
        again.add(3, {"text": "three"})
    with Answers(tmp_path, {"a": 1}) as last:
        assert {feature: record["text"] for feature, record in last.known.items()} == {1: "one", 3: "three"}


def test_killed_run_keeps_what_was_answered(tmp_path: Path) -> None:
    # The file alone, since it is not the package's other imports that are killed.
    script = (
        "import importlib.util, sys\nfrom pathlib import Path\n"
        "spec = importlib.util.spec_from_file_location('answers', sys.argv[2])\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "answers = module.Answers(Path(sys.argv[1]), {})\n"
        "for n in range(10**6):\n answers.add(n, {'text': 'x' * 500})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(answers_module.__file__)])
    try:
        deadline = time.monotonic() + 60
        while sum(path.stat().st_size for path in tmp_path.glob("*.jsonl")) < 20_000:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    with Answers(tmp_path, {}) as answers:
        assert len(answers.known) >= 30
        assert list(answers.known) == list(range(len(answers.known)))


def test_over_a_server_that_often_fails(planted: PlantedIndex) -> None:
    """429, 500, garbage and a hang on the way; labels and scores come out as if nothing had been."""

    def script(asked: Asked, number: int) -> Served:
        trouble = {1: Served(status=429, headers={"Retry-After": "0"}, raw=b""), 3: Served(status=500, raw=b"")}
        trouble |= {5: Served(raw=b"{"), 8: Served(silence=True)}
        if number in trouble:
            return trouble[number]
        if asked.system == EXPLAINER:
            return Served("Explanation: **line breaks**\n\nI hope this helps!")
        fuzzing = asked.system == FUZZING
        return Served("Sure. " + json.dumps([int(line_oracle(*one, fuzzing)) for one in shown(asked.prompt)]))

    with serving(script) as server:
        model = Endpoint(server.url, "m", patience=Patience(attempts=4, timeout=0.5, first_wait=0.01))
        table = asked_labels(planted, model, [FEATURE["line"]], OPTIONS)
    label = table.labels[0]
    assert (label.text, label.score, label.controls["null_detection"]) == ("line breaks", 1.0, 0.5)
    assert table.options["failed"] == 0


def test_server_that_refuses_ends_the_run(planted: PlantedIndex) -> None:
    with serving(lambda *_: Served(status=401, raw=b'{"error": "bad key"}')) as server:
        with pytest.raises(ModelError, match="401 bad key; is SAESCOPE_API_KEY right"):
            asked_labels(planted, Endpoint(server.url, "m", at_once=2), None, OPTIONS)
        assert len(server.asked) < 12


def test_one_failure_does_not_end_the_run(planted: PlantedIndex) -> None:
    def script(asked: Asked, number: int) -> Served:
        if asked.system == EXPLAINER and "<<⏎>>" in asked.prompt:
            return Served(status=400, raw=b"no")
        answer = json.dumps([0] * len(shown(asked.prompt)))
        return Served("a label" if asked.system == EXPLAINER else answer)

    with serving(script) as server:
        model = Endpoint(server.url, "m", at_once=3)
        table = asked_labels(planted, model, [FEATURE[name] for name in ("sea", "line", "court")], OPTIONS)
    assert [label.feature for label in table.labels] == [FEATURE["sea"], FEATURE["court"]]
    assert table.options["failed"] == 1


def test_judge_that_rambles_gives_no_label(planted: PlantedIndex) -> None:
    """Newest labels win, so one that nobody could try must not hide another."""

    class Rambling(Scripted):
        def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
            return Reply("I cannot say, perhaps the third." if system != EXPLAINER else "words")

    table = asked_labels(planted, Rambling(line_oracle), [FEATURE["line"], RARE_FEATURE], OPTIONS)
    # The rare feature has no windows to be tried on, which is not the judge's fault.
    assert [(label.feature, label.text, label.score) for label in table.labels] == [(RARE_FEATURE, "words", None)]
    assert table.options["unusable"] == 1


def test_few_unusable_answers_leave_their_windows_out(planted: PlantedIndex) -> None:
    class Forgetful(Scripted):
        def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
            reply = super().reply(system, prompt, max_tokens)
            return Reply("?") if len(self.judged) == 2 else reply

    label = asked_labels(planted, Forgetful(line_oracle), [FEATURE["line"]], OPTIONS).labels[0]
    detection = label.parts["tried"]["detection"]
    assert (label.score, detection["answered"], detection["asked"]) == (1.0, 20, 24)


def test_explainer_that_says_nothing_gives_no_label(planted: PlantedIndex) -> None:
    assert asked_labels(planted, Scripted(line_oracle, " \n\t"), [FEATURE["line"]], OPTIONS).labels == ()


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Explanation: names of rivers", "names of rivers"),
        ("\n\n- **Label:** Names of rivers.\nBecause …", "Names of rivers."),
        ('"quoted"', "quoted"),
        ("The feature stands for: x\x00\x1b[31my", "x [31my"),
        ("a\u202eb\u2028second line", "a b"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("word " * 500, None),
    ],
)
def test_label_is_one_short_printable_line(answer: str, label: str | None) -> None:
    found = label_text(answer)
    assert found.isprintable()
    assert len(found) <= 120
    if label is not None:
        assert found == label


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_answer_gives_a_printable_line(answer: str) -> None:
    found = label_text(answer)
    assert found == "" or (found.isprintable() and len(found) <= 120 and found == found.strip())


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("[1, 0,1]", [True, False, True]),
        ("Window [2] looks odd, so: [0,0,0].", [False, False, False]),
        ("```json\n[1,\n 1, 0]\n```", [True, True, False]),
        ("[1, 0]", None),
        ("[1, 0, 2]", None),
        ("1, 0, 1", None),
        ("[1, 0, 1", None),
        ("", None),
    ],
)
def test_only_a_list_of_as_many_decisions_counts(answer: str, found: list[bool] | None) -> None:
    assert decisions(answer, 3) == found


def test_options_that_cannot_work_are_refused(planted: PlantedIndex) -> None:
    with pytest.raises(UsageError, match="per_prompt is 0"):
        AskingOptions(per_prompt=0)
    with pytest.raises(UsageError, match="no feature 99"):
        asked_labels(planted, Scripted(line_oracle), [99], OPTIONS)
