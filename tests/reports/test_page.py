"""The report as a reader's browser gets it."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from tests.measured import documents, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.errors import OccupiedError
from saescope.evaluation import METRICS, Estimate, Evaluation, Part, Score, evaluate
from saescope.reports import claim, report_page, write_report
from saescope.text import TokenText

VOID = {"meta"}
HISTORY = [
    {
        "tokens": 1000.0 * step,
        "loss": 1 / step,
        "fvu": 0.9 / step,
        "l0": 30.0,
        "dead": 0.1 / step,
        "seconds": 2.0 * step,
    }
    | ({"held_out_fvu_centered": 1 / step, "held_out_l0": 29.0} if step % 5 == 0 else {})
    for step in range(1, 21)
]


class Page(HTMLParser):
    """Elements, attributes and text of a page; `open` is empty at the end when every tag was closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(attributes.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]


@pytest.fixture(scope="module")
def evaluation(byte_tokenizer: PreTrainedTokenizerFast) -> Evaluation:
    coder = random_coder(threshold=0.8, history=HISTORY, training={"tokens": 20000})
    return evaluate(coder, tiny_lm(byte_tokenizer), documents(), resamples=20)[0]


@pytest.fixture(scope="module")
def pieces(byte_tokenizer: PreTrainedTokenizerFast):  # type: ignore[no-untyped-def]
    return TokenText(byte_tokenizer).pieces


@pytest.fixture(scope="module")
def html(evaluation: Evaluation, pieces) -> str:  # type: ignore[no-untyped-def]
    return report_page([evaluation], pieces)


def test_every_tag_is_closed_and_every_id_unique(html: str) -> None:
    page = Page(html)
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = " ".join(
        str(attributes["aria-labelledby"]) for _, attributes in page.elements if "aria-labelledby" in attributes
    )
    assert set(labels.split()) <= set(ids)


def test_nothing_is_asked_of_the_network_and_nothing_runs(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in page.elements
    }
    for _, attributes in page.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action", "xlink:href")
        ]
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in html
    assert "@import" not in html
    assert "://" not in html
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_metric_has_its_line_value_and_controls(html: str, evaluation: Evaluation) -> None:
    page = Page(html)
    for metric in METRICS:
        assert metric.label in page.text
        assert metric.meaning in page.text
        assert metric.format(evaluation.coder[metric.key]) in page.text
    assert "not measured. the coder came without mean" in page.text


def test_twenty_four_features_each_with_its_peak_marked(html: str, evaluation: Evaluation) -> None:
    page = Page(html)
    assert len(page.all("article", class_="feature")) == 24
    marks = page.all("mark")
    shown = sum(
        len(evaluation.contexts.contexts(int(str(article["id"]).rsplit("-", 1)[1])))
        for article in page.all("article", class_="feature")
    )
    assert len(marks) == shown
    assert all(mark["tabindex"] == "0" and float(str(mark["title"])) > 0 for mark in marks)
    assert "Document 0" in page.text


def test_plots_are_there_with_words_for_those_who_cannot_see_them(html: str) -> None:
    page = Page(html)
    drawings = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(drawings) == 7
    for title in (
        "Loss",
        "FVU",
        "L0",
        "Dead latents",
        "Speed",
        "How often latents fire",
        "How alike decoder directions are",
    ):
        assert title in page.text
    assert "Loss goes from 1 to 0.05 over 20,000 training tokens." in page.text
    assert "nan" not in " ".join(str(path.get("d")) for path in page.all("path")).lower()


def test_a_coder_without_history_or_life(evaluation: Evaluation, pieces) -> None:  # type: ignore[no-untyped-def]
    empty = evaluation.contexts
    for tensor in (empty.count, empty.value):
        assert tensor.any()
    silent = dataclasses.replace(
        empty,
        count=torch.zeros_like(empty.count),
        value=torch.zeros_like(empty.value),
        total=torch.zeros_like(empty.total),
    )
    page = Page(report_page([dataclasses.replace(evaluation, history=[], contexts=silent)], pieces))
    assert page.open == []
    assert "no record of its training" in page.text
    assert "No latent fired on this text" in page.text


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><style>*{display:none}",
    "' onmouseover='alert(1)",
    "&lt;b&gt; &amp;",
    "a\u202egnirts desrever\u2066",
    "nul\x00bell\x07",
    "<!--",
    "javascript:alert(1)",
]


def _everywhere(evaluation: Evaluation, text: str) -> str:
    """A page with `text` in every place that takes words from outside."""
    changed = dataclasses.replace(
        evaluation,
        coder=evaluation.coder | {"name": text, "architecture": text, "reads": [text], "writes": [text]},
        controls={"frozen_random": evaluation.controls["frozen_random"], "pca": {"absent": text}},
        titles=[text] * len(evaluation.titles),
        evaluation=evaluation.evaluation | {"model": {"name": text}},
    )
    return report_page([changed, changed], lambda ids: [text] * len(ids))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(evaluation: Evaluation, text: str) -> None:
    html = _everywhere(evaluation, text)
    page, harmless = Page(html), Page(_everywhere(evaluation, "harmless"))
    assert page.open == []
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert [attributes.keys() for _, attributes in page.elements] == [
        attributes.keys() for _, attributes in harmless.elements
    ]
    assert [link["href"] for link in page.all("a")] == [link["href"] for link in harmless.all("a")]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", html)
    shown = re.sub("[\u202e\u2066\x00\x07]", "\ufffd", text)
    assert page.text.count(shown) == harmless.text.count("harmless")


def test_a_part_says_over_what_its_intervals_are(evaluation: Evaluation, pieces, html: str) -> None:  # type: ignore[no-untyped-def]
    score = Score("k1", "One latent", Estimate(0.7, (0.6, 0.8)))
    part = Part("probing", "Probing", "On words.", (score,), facts={"intervals": {"unit": "held-out <word>"}})
    text = Page(report_page([evaluation.with_parts([part])], pieces)).text
    assert "over resamples of: held-out <word>." in text
    assert "resamples of whole documents; those of a part of the suite as it says." in text
    assert "resamples of whole documents." in Page(html).text


def test_several_coders_have_links_to_their_sections(evaluation: Evaluation, pieces) -> None:  # type: ignore[no-untyped-def]
    other = dataclasses.replace(evaluation, coder=evaluation.coder | {"name": "other"})
    page = Page(report_page([evaluation, other], pieces))
    assert page.open == []
    anchors = [str(link["href"])[1:] for link in page.all("a") if link["href"] != "#main"]
    sections = [section["id"] for section in page.all("section")]
    assert anchors == sections == ["coder1", "coder2"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_both_files_are_written_whole_and_again(
    evaluation: Evaluation, byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    report = write_report([evaluation], tmp_path / "new" / "out", byte_tokenizer)
    again = write_report([evaluation], tmp_path / "new" / "out", byte_tokenizer)
    assert report == again
    assert sorted(path.name for path in report.parent.iterdir()) == ["metrics.json", "report.html"]
    metrics = json.loads(report.with_name("metrics.json").read_text())
    assert metrics["coder"]["l0"] == evaluation.coder["l0"]


@pytest.mark.parametrize("name", ["metrics.json", "report.html"])
def test_someone_elses_file_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(OccupiedError, match="was not written by saescope"):
        claim(tmp_path)
    assert (tmp_path / name).read_text() == '{"mine": 1}'
