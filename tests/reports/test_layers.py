"""A page on many coders: a row for each, plots against the layer, and sections that stay out of the way."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
from tests.measured import documents, random_coder, tiny_lm
from tests.reports.test_page import HISTORY, Page
from transformers import PreTrainedTokenizerFast

from saescope.cli.tables import results_table
from saescope.evaluation import BY_KEY, Evaluation, evaluate
from saescope.reports import report_page
from saescope.reports.layers import by_layer, has_layers, layer_plots
from saescope.text import TokenText


@pytest.fixture(scope="module")
def pieces(byte_tokenizer: PreTrainedTokenizerFast):  # type: ignore[no-untyped-def]
    return TokenText(byte_tokenizer).pieces


@pytest.fixture(scope="module")
def evaluation(byte_tokenizer: PreTrainedTokenizerFast) -> Evaluation:
    coder = random_coder(threshold=0.8, history=HISTORY, training={"tokens": 20000})
    return evaluate(coder, tiny_lm(byte_tokenizer), documents(), resamples=20)[0]


@pytest.fixture(scope="module")
def at(evaluation: Evaluation) -> Callable[..., Evaluation]:
    """The same measurement as if made at another layer."""

    def moved(layer: int, point: str = "mlp_out", **numbers: float | None) -> Evaluation:
        who = {"name": f"coder-{point}.{layer}", "reads": [f"{point}.{layer}"], "writes": [f"{point}.{layer}"]}
        return dataclasses.replace(evaluation, coder=evaluation.coder | who | numbers)

    return moved


@pytest.fixture(scope="module")
def thirty(at: Callable[..., Evaluation]) -> list[Evaluation]:
    # As a shell lists them: 0, 1, 10, 11, …
    return [at(layer, fvu_centered=0.1 + layer / 100) for layer in sorted(range(30), key=str)]


@pytest.fixture(scope="module")
def html(thirty: list[Evaluation], pieces) -> str:  # type: ignore[no-untyped-def]
    return report_page(thirty, pieces)


def test_rows_and_sections_stand_in_the_order_of_layers(html: str) -> None:
    page = Page(html)
    assert page.open == []
    expected = [f"coder-mlp_out.{layer}" for layer in range(30)]
    rows = re.findall(r'<th role="rowheader" scope="row">([^<]+)<span', html)
    assert rows[:30] == expected
    headings = re.findall(r'<h2 id="coder\d+-name">([^<]+)</h2>', html)
    assert headings == expected
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_many_sections_are_folded_with_their_numbers_in_sight_and_fewer_features(html: str, thirty) -> None:  # type: ignore[no-untyped-def]
    page = Page(html)
    assert html.count("</h2><details><summary>") == 30
    assert "mlp_out.7 · FVU 0.170 · CE recovered (mean) –" in page.text
    assert len(page.all("article", class_="feature")) == 30 * 6
    assert "30 coders — sparse coder report" in page.text
    assert "Side by side" not in page.text
    assert len(html) < 30 * 100_000


def test_a_plot_shows_coder_and_control_at_every_layer(thirty: list[Evaluation]) -> None:
    drawn = layer_plots(thirty)
    titles = re.findall(r"<figcaption>([^<]+)</figcaption>", drawn)
    shown = ("fvu_centered", "ce_recovered_mean", "l0", "dead_fraction")
    assert titles == [f"{BY_KEY[key].label} by layer" for key in shown]
    first = drawn.split("</figure>")[0]
    assert "random coder" in first
    assert len(re.findall(r'<circle class="dot s0"', first)) == len(re.findall(r'<circle class="dot s1"', first)) == 30
    assert "lies between 0.1 at layer 0 and 0.39 at layer 29" in first
    labels = re.findall(r'class="tick middle"[^>]*>([^<]+)<', first)
    assert labels == ["0", "10", "20"]


def test_seeds_of_a_layer_are_one_point_with_their_range(at: Callable[..., Evaluation]) -> None:
    seeds = [at(layer, fvu_centered=0.1 + 0.1 * seed) for seed in range(3) for layer in range(3)]
    first = layer_plots(seeds).split("</figure>")[0]
    places = re.findall(r'<circle class="dot s0" cx="([\d.]+)" cy="([\d.]+)"', first)
    assert len({x for x, _ in places}) == len(places) == 3
    assert len({y for _, y in places}) == 1, "the mean of 0.1, 0.2 and 0.3 at every layer"
    assert len(re.findall(r'class="ends s0"', first)) == 3
    assert "coder: 0.2 at 1" in first
    assert "from the lowest to the highest" in first
    assert "the lowest to the highest" not in layer_plots(seeds[:3])


def test_few_layers_have_ticks_at_whole_numbers(at: Callable[..., Evaluation]) -> None:
    first = layer_plots([at(layer) for layer in range(3)]).split("</figure>")[0]
    assert re.findall(r'class="tick middle"[^>]*>([^<]+)<', first) == ["0", "1", "2"]


def test_a_ruinous_control_does_not_flatten_the_coders(at: Callable[..., Evaluation]) -> None:
    values = (0.9, 0.8, -40.0)
    drawn = layer_plots([at(layer, ce_recovered_mean=value) for layer, value in enumerate(values)]).split("</figure>")[
        1
    ]
    heights = [float(y) for y in re.findall(r'<circle class="dot s0" cx="[\d.]+" cy="([\d.]+)"', drawn)]
    assert heights[1] - heights[0] > 5, "a difference of 0.1 is seen"
    assert heights[2] > heights[1]
    assert "-40 at 2" in drawn


def test_each_kind_of_coder_has_its_own_plots(at: Callable[..., Evaluation]) -> None:
    kinds = [at(layer, point) for layer in range(3) for point in ("mlp_out", "resid_post")]
    drawn = layer_plots(kinds)
    headings = re.findall(r"<h3>([^<]+)</h3>", drawn)
    assert [heading.split(" at ")[1].split(",")[0] for heading in headings] == ["mlp_out", "resid_post"]
    assert drawn.count("<figure") == 8


def test_coders_of_one_or_two_layers_stay_side_by_side(at: Callable[..., Evaluation], pieces) -> None:  # type: ignore[no-untyped-def]
    two = [at(1), at(0)]
    assert not has_layers(two)
    assert by_layer(two) == two
    text = Page(report_page(two, pieces)).text
    assert "Side by side" in text
    assert "By layer" not in text
    three = Page(report_page([*two, at(2)], pieces)).text
    assert "Side by side" in three
    assert "By layer" in three


def test_coders_over_several_layers_have_a_row_and_no_place_on_the_axis(at: Callable[..., Evaluation], pieces) -> None:  # type: ignore[no-untyped-def]
    over = at(5)
    over = dataclasses.replace(over, coder=over.coder | {"name": "over", "writes": ["mlp_out.1", "mlp_out.2"]})
    every = [*(at(layer) for layer in range(4)), over]
    assert "over" in re.findall(r'<th role="rowheader" scope="row">([^<]+)<span', report_page(every, pieces))[:5]
    assert len(re.findall(r'<circle class="dot s0"', layer_plots(every).split("</figure>")[0])) == 4


def test_the_terminal_gets_a_row_a_coder(thirty: list[Evaluation]) -> None:
    table = results_table(thirty)
    assert table.row_count == 30
    assert list(table.columns[0].cells) == [f"coder-mlp_out.{layer}" for layer in range(30)]
    assert results_table(thirty[:2]).row_count > 2
