"""Widgets: what the kernel sends, and what a browser draws of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.server.visiting import Visit, chromium, served

from saescope.errors import UsageError
from saescope.features import FeatureIndex
from saescope.lm import LanguageModel
from saescope.server import create_app
from saescope.server.widget import FeatureCard, PromptView

HOSTILE = "<img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script>"


def test_a_card_follows_its_feature_and_says_what_it_cannot_show(workspace: Path) -> None:
    card = FeatureCard(workspace, 0)
    assert card.content["label"]["text"] == "the quick fox"
    index = FeatureIndex.open(workspace / "coder" / "index")
    assert card.content["count"] == int(index.count[0])
    card.feature = 1
    assert card.content["feature"] == 1
    card.feature = 10**6
    assert "no feature 1000000" in card.error
    assert card.content["feature"] == 1
    with pytest.raises(UsageError, match="no feature 60"):
        FeatureCard(workspace, 60)
    with pytest.raises(UsageError, match="no coder 'other'"):
        FeatureCard(workspace, 0, coder="other")


def test_a_prompt_is_run_anew_when_it_is_typed_anew(workspace: Path, lm: LanguageModel) -> None:
    view = PromptView(workspace, lm, "the quick brown fox")
    assert "".join(token["t"] for token in view.content["tokens"]) == "the quick brown fox"
    shown = view.content["shown"]
    assert shown == view.content["strongest"][0]["feature"]
    values = view.content["pinned"][str(shown)]
    assert max(values) == view.content["strongest"][0]["value"] > 0
    view.text = "lazy dogs"
    assert "".join(token["t"] for token in view.content["tokens"]) == "lazy dogs"
    view.text = ""
    assert "no tokens" in view.error
    other = next(entry["feature"] for entry in view.content["strongest"][1:])
    view.text = "lazy dogs"
    view.feature = other
    assert view.content["shown"] == other
    assert view.error == ""


MODEL = """
([content, kind]) => import("/static/widget.js").then((module) => {
  const state = { content, kind, text: "typed", error: "", feature: null };
  window.saved = [];
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; },
    save_changes: () => window.saved.push({ ...state }),
    on: () => {},
  };
  document.body.replaceChildren();
  module.default.render({ model, el: document.body });
})
"""


def test_a_browser_draws_them_and_hostile_text_stays_text(workspace: Path, lm: LanguageModel) -> None:
    card = FeatureCard(workspace, 0)
    card.content = {**card.content, "label": {"text": HOSTILE, "source": "person", "score": None}}
    card.content["groups"][0]["contexts"][0]["tokens"][0]["t"] = HOSTILE
    view = PromptView(workspace, lm, "the quick brown fox")

    def sent(content: dict[str, Any]) -> Any:
        return json.loads(json.dumps(content))

    with served(create_app(workspace, lm=lm)) as url, chromium() as browser:
        visit = Visit(browser)
        page = visit.page()
        page.goto(f"{url}/api/docs")
        page.evaluate(MODEL, [sent(card.content), "card"])
        assert HOSTILE in page.inner_text("h3")
        assert HOSTILE in page.inner_text(".strip >> nth=0")
        assert page.locator("img, script").count() == 0
        assert page.title() != "bad"
        assert page.locator(".tok.peak").count() == len(page.query_selector_all(".strip"))
        page.evaluate(MODEL, [sent(view.content), "prompt"])
        assert page.inner_text(".strip") == "the quick brown fox"
        assert page.locator(".tok:not(.s0)").count() > 0
        page.locator(".strongest button >> nth=1").click()
        assert page.evaluate("window.saved.at(-1).feature") == view.content["strongest"][1]["feature"]
        page.fill("textarea", "other words")
        page.wait_for_function("() => window.saved.at(-1).text === 'other words'")
        visit.context.close()
        assert visit.problems == []
