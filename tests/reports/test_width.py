"""Pages stay as wide as their reader's screen, whatever the names in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.features.index.built import tiny_index
from tests.measured import documents, random_coder, tiny_lm
from tests.reports.test_features_page import Said
from tests.reports.test_page import HISTORY
from tests.server.visiting import chromium
from transformers import PreTrainedTokenizerFast

from saescope.evaluation import evaluate
from saescope.reports import report_page
from saescope.reports.features import features_page
from saescope.text import TokenText

LONG = "a" * 200


@pytest.fixture(scope="module")
def pages(bos_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A report on one coder, on two, on many, and a page of features, all with names that no line can break."""
    lm = tiny_lm(bos_tokenizer)
    found = evaluate(random_coder(threshold=0.8, history=HISTORY), lm, documents(), resamples=20)[0]
    found = dataclasses.replace(
        found,
        coder=found.coder | {"name": LONG},
        evaluation=found.evaluation | {"model": {"name": LONG}},
        titles=[LONG] * len(found.titles),
    )
    index = tiny_index(tmp_path_factory.mktemp("tiny"), bos_tokenizer, lm=lm)
    index.manifest.coder.name = LONG
    index.manifest.model["name"] = LONG
    strongest = index.count.argsort()[::-1][:8].tolist()
    made = [report_page([found] * n, TokenText(bos_tokenizer).pieces) for n in (1, 2, 5)]
    made.append(features_page(index, strongest, dict.fromkeys(strongest, Said(LONG))))
    folder = tmp_path_factory.mktemp("pages")
    for number, page in enumerate(made):
        (folder / f"{number}.html").write_text(page)
    return sorted(folder.iterdir())


def test_long_names_do_not_widen_a_page(pages: list[Path]) -> None:
    with chromium() as browser:
        for width in (360, 1200):
            view = browser.new_page(viewport={"width": width, "height": 800})
            for page in pages:
                view.goto(page.as_uri())
                view.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
                assert view.evaluate("document.documentElement.scrollWidth") <= width, page.name
