"""The suite's frame: parts chosen by name, and shown in record, table and page with interval, control and caution."""

from __future__ import annotations

import importlib
import json
from html.parser import HTMLParser

import pytest
from rich.console import Console
from tests.measured import documents, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.cli.tables import parts_listed, parts_tables
from saescope.errors import UsageError
from saescope.evaluation import PARTS, Estimate, Evaluation, Part, Score, chosen_parts, evaluate, record
from saescope.reports import report_page
from saescope.text import TokenText

HOSTILE = '<script>alert("&")</script>[bold]'
SCORE = Score(
    "accuracy",
    f"Accuracy {HOSTILE}",
    Estimate(0.875, (0.8, 0.95)),
    {"frozen_random": Estimate(0.55, (0.5, 0.6)), "dense": Estimate(0.9)},
    meaning="Share right.",
    misleads="Says nothing of why.",
    better="higher",
    group="corpus",
)
PART = Part("probing", "Sparse probing", f"On eight tasks {HOSTILE}.", (SCORE,), {"dense": "All dimensions."}, {"n": 8})


@pytest.fixture(scope="module")
def found(byte_tokenizer: PreTrainedTokenizerFast) -> Evaluation:
    measured = evaluate(random_coder(threshold=0.8), tiny_lm(byte_tokenizer), documents(), resamples=20)[0]
    return measured.with_parts([PART, Part("stability", "Stability over seeds", absent="one coder only")])


def test_parts_are_chosen_by_name_in_the_tables_order() -> None:
    assert chosen_parts(["core"]) == []
    assert [kind.name for kind in chosen_parts(["stability", "core", "probing"])] == ["probing", "stability"]
    assert chosen_parts(["all"]) == list(PARTS)
    with pytest.raises(UsageError, match=r"no part 'probin' in the suite.*nearest: probing"):
        chosen_parts(["probin"])


def test_every_part_of_the_table_can_be_measured() -> None:
    for kind in PARTS:
        assert callable(importlib.import_module(f"saescope.evaluation.{kind.module}").measure), kind.name


def test_the_record_has_value_interval_and_controls(found: Evaluation) -> None:
    written = json.loads(json.dumps(record([found]), allow_nan=False))["parts"]
    assert written["probing"]["scores"]["accuracy"] == {
        "value": 0.875,
        "interval": [0.8, 0.95],
        "controls": {
            "frozen_random": {"value": 0.55, "interval": [0.5, 0.6]},
            "dense": {"value": 0.9, "interval": None},
        },
    }
    assert written["probing"]["facts"] == {"n": 8}
    assert written["stability"] == {"absent": "one coder only"}


def test_the_page_says_what_a_score_means_and_shows_text_as_text(
    found: Evaluation, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    page = report_page([found], TokenText(byte_tokenizer).pieces)
    words: list[str] = []
    reader = HTMLParser(convert_charrefs=True)
    reader.handle_data = words.append  # type: ignore[method-assign]
    reader.feed(page)
    text = "".join(words)
    for expected in (
        "0.875", "0.800 – 0.950", "0.550", "random coder", "Share right. Says nothing of why. Higher is better.",
        f"Accuracy {HOSTILE}", "All dimensions.", "Not measured: one coder only.",
    ):  # fmt: skip
        assert expected in text, expected
    assert "<script>" not in page


def test_numbers_are_whole_in_eighty_characters(found: Evaluation) -> None:
    controls = {
        name: Estimate(0.5125)
        for name in ("frozen_random", "dimensions", "shuffled", "all dimensions", "rows", "other words")
    }
    parts = [
        Part(f"part {number}", "A part", "", tuple(
            Score(f"{number}", "A score with a label of forty characters",
                  Estimate(0.8125, (0.7125, 0.9125)), controls={name: controls[name]}, digits=4) for _ in range(2)
        )) for number, name in enumerate(controls)
    ]  # fmt: skip
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(parts_tables([found.with_parts(parts)]))
    text = console.export_text()
    assert text.count("0.7125 – 0.9125") == text.count("0.8125") == text.count("0.5125") == 12
    assert all(name in text for name in controls)


def test_labels_have_room_beside_four_controls(found: Evaluation) -> None:
    beside = {name: Estimate(0.512) for name in ("frozen_random", "dimension", "dense_probe", "shuffled_decoder")}
    score = Score("f1", "F1 of the split latents", Estimate(0.812, (0.712, 0.912)), controls=beside)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(parts_tables([found.with_parts([Part("absorption", "Letters", "", (score,))])]))
    text = console.export_text()
    assert all(word in text for word in ["F1", "of", "the", "split", "latents"])
    assert text.count("0.512") == 4
    assert "0.712 – 0.912" in text


def test_the_terminal_shows_the_same(found: Evaluation) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(parts_tables([found]))
    console.print(parts_listed())
    text = console.export_text()
    for expected in ("0.875", "0.800 – 0.950", "0.550", "0.900", HOSTILE, "one coder only", "core"):
        assert expected in text, expected
