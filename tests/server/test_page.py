"""The explorer's page as people use it, in a real browser. Every test also fails on an error in the console, an uncaught
exception, or a request to anything but this machine (see visiting.py).

Tests with `explorer_url` visit the server itself and hold for any index; those with `made_up_url` know the features, hostile
ones among them, of a made-up server (fake_api.py) that has more of everything than a tiny index.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from tests.server.conftest import write_labels
from tests.server.fake_api import create_app as create_made_up
from tests.server.visiting import Visit, chromium, served

from saescope.features import FeatureIndex
from saescope.lm import LanguageModel
from saescope.server import create_app as create_server

SENTENCE = "Albert Einstein worked on physics in Princeton; Apollo 11 and Alaska are other matters."
VIEWS = {
    "overview": "#/",
    "cards": "#/c/{coder}/browse?q=einstein",
    "table": "#/c/{coder}/browse?as=table",
    "by text": "#/c/{coder}/browse?by=text&text={text}",
    "feature": "#/c/{coder}/feature/{feature}?text={text}",
    "steer": "#/c/{coder}/feature/{feature}?tool=steer&text={text}",
    "prompt": "#/c/{coder}/prompt?text={text}&pins={feature}&token=1",
    "chat": "#/c/{coder}/prompt?mode=chat",
    "two prompts": "#/c/{coder}/prompt?mode=two&text={text}&b=Apollo",
    "two features": "#/c/{coder}/compare?a={feature}&b=3&text={text}",
    "document": "#/c/{coder}/document/0?feature={feature}",
    "coders": "#/c/{coder}/compare?what=coders&text={text}",
}
Start = Callable[..., Visit]


@pytest.fixture(scope="module")
def explorer_url(built: Path, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The explorer under test: the server itself on an index of a tiny random model, one of whose features is labelled
    Albert Einstein. SAESCOPE_EXPLORER_URL names a running one instead, in which a search for Einstein finds something.
    """
    running = os.environ.get("SAESCOPE_EXPLORER_URL")
    if running:
        yield running.rstrip("/")
        return
    folder = tmp_path_factory.mktemp("explorer") / "work"
    shutil.copytree(built, folder)
    index = FeatureIndex.open(folder / "coder" / "index")
    often = np.argsort(index.count)[-6:].tolist()
    write_labels(index.path, "2", [(feature, f"Albert Einstein, {feature}", "contrastive", 0.8) for feature in often])
    with served(create_server(folder, lm=lm)) as url:
        yield url


@pytest.fixture(scope="module")
def made_up_url() -> Iterator[str]:
    """An explorer whose features, hostile ones among them, are known."""
    with served(create_made_up()) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens visits; at the end of the test nothing may have gone wrong in any."""
    visits: list[Visit] = []

    def start(**options: Any) -> Visit:
        options.setdefault("viewport", {"width": 1200, "height": 850})
        visits.append(Visit(browser, **options))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()
    assert [problem for one in visits for problem in one.problems] == []


def settle(page: Any) -> None:
    """Until nothing is loading."""
    page.wait_for_function(
        "() => document.querySelector('main h1') && !document.querySelector('main .loading, main [aria-busy=true]')"
    )


def address(page: Any, url: str, view: str) -> str:
    """The view's address in the first coder, of the feature that a search for Einstein finds first."""
    workspace = page.request.get(f"{url}/api/workspace").json()
    coder = workspace["coders"][0]["id"]
    found = page.request.get(f"{url}/api/coders/{quote(coder, safe='')}/features?q=einstein&sort=relevance").json()
    return f"{url}/" + VIEWS[view].format(
        coder=quote(coder, safe=""), text=quote(SENTENCE), feature=found["items"][0]["feature"]
    )


def lit(page: Any, within: str) -> list[str]:
    """The tokens that have a colour."""
    return page.eval_on_selector_all(f"{within} .tok:not(.s0)", "spans => spans.map(span => span.textContent)")


def test_a_persons_path_from_a_word_to_a_starred_feature(visit: Start, explorer_url: str) -> None:
    page = visit().page()
    page.goto(explorer_url)
    settle(page)
    page.keyboard.press("/")
    page.wait_for_selector("#search:focus")
    page.keyboard.type("Einstein")
    page.wait_for_function("() => location.hash.includes('q=Einstein')")
    settle(page)
    first = page.locator(".card .feature-link").first
    number = first.locator(".number").text_content()
    first.click()
    page.wait_for_selector(".examples .tok.peak")
    assert page.locator("main h1 .number").text_content() == number
    assert page.locator(".example cite").first.text_content()

    # A text of its own: what it fires on in the corpus it fires on here, and the address has it.
    coder, feature = re.search(r"#/c/([^/]+)/feature/(\d+)", page.url).groups()
    groups = page.request.get(f"{explorer_url}/api/coders/{coder}/features/{feature}").json()["groups"]
    contexts = [context for group in groups for context in group["contexts"][:3]]
    text = "\n".join("".join(token["t"] for token in context["tokens"]) for context in contexts)
    assert lit(page, ".try") == []
    page.fill("#try", text[:3000])
    page.wait_for_selector(".try .tok:not(.s0)", timeout=60_000)
    page.wait_for_function("() => location.hash.includes('text=')")

    page.click("#tab-steer")
    page.fill(".slider input[type=number]", "2")
    page.keyboard.press("Tab")
    page.click("button.primary")
    page.wait_for_selector(".completion:nth-child(1) .tok", timeout=60_000)
    page.wait_for_selector(".completion:nth-child(2) .tok", timeout=60_000)
    page.wait_for_selector(".steer-numbers >> text=perplexity", timeout=60_000)
    numbers = page.locator(".steer-numbers").text_content()
    assert "the residual’s" in numbers
    assert "strength=2" in page.url

    star = page.locator(".feature-head .star")
    pressed = star.get_attribute("aria-pressed")
    star.click()
    page.wait_for_selector(f".feature-head .star:not([aria-pressed={pressed}])")
    if pressed == "true":
        star.click()
    page.wait_for_selector(".feature-head .star[aria-pressed=true]")
    page.reload()
    page.wait_for_selector(".feature-head .star[aria-pressed=true]")
    page.click("header.top nav >> text=Browse")
    page.check("text=starred")
    page.wait_for_function("() => location.hash.includes('starred=1')")
    settle(page)
    assert number in page.locator(".card .number").all_text_contents()


def test_a_person_who_uses_only_the_keyboard(visit: Start, explorer_url: str) -> None:
    page = visit().page()
    page.goto(explorer_url)
    settle(page)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("g")
    page.keyboard.press("b")
    page.wait_for_selector(".cards .card")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    card = page.evaluate("() => document.activeElement.closest('.card').dataset.feature")
    assert card == page.locator(".card").first.get_attribute("data-feature")
    page.keyboard.press("Enter")
    page.wait_for_selector(".examples .tok.peak")
    assert page.evaluate("() => document.activeElement.tagName") == "H1"

    page.keyboard.press("j")
    page.wait_for_function(f"() => !location.hash.endsWith('/feature/{card}')")
    settle(page)
    assert "2 of" in page.locator(".walk").text_content()

    # A strip is one tab stop, wherever the arrows have gone; its values are told.
    page.locator(".examples .strip").first.locator("[tabindex='0']").focus()
    peak = page.evaluate("() => Number(document.activeElement.dataset.i)")
    assert "peak" in page.locator("#said").text_content()
    assert page.locator(".tip").text_content().strip()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => Number(document.activeElement.dataset.i)") == 1
    assert "peak" not in page.locator("#said").text_content() or peak == 1
    stops = page.eval_on_selector_all(
        ".strip", "strips => strips.map(strip => strip.querySelectorAll('[tabindex=\"0\"]').length)"
    )
    assert set(stops) == {1}
    # Enter asks the index for what else fires there.
    page.keyboard.press("Enter")
    page.wait_for_selector(".at .rows")

    # Another visit may have starred this feature already.
    before = page.locator(".feature-head .star").get_attribute("aria-pressed")
    page.keyboard.press("s")
    page.wait_for_selector(f".feature-head .star:not([aria-pressed={before}])")
    page.keyboard.press("s")
    page.wait_for_selector(f".feature-head .star[aria-pressed={before}]")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("j")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="hidden")
    assert page.evaluate("() => document.activeElement !== document.body")

    # The charts and the map answer to arrows too.
    page.keyboard.press("g")
    page.keyboard.press("o")
    page.wait_for_selector(".map-field")
    settle(page)
    page.locator(".chart .plot").first.focus()
    page.keyboard.press("ArrowRight")
    assert re.search(r"features fire on .* of tokens", page.locator("figcaption").first.text_content())
    page.locator(".map-field").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".map-told b")
    told = page.locator(".map-told b").text_content()
    page.keyboard.press("Enter")
    page.wait_for_selector(".feature-head h1")
    assert page.locator(".feature-head h1 .number").text_content() == told


def test_single_keys_rest_while_typing_and_can_be_turned_off(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/browse")
    settle(page)
    page.focus("#search")
    page.keyboard.type("j?sg b")
    assert page.input_value("#search") == "j?sg b"
    assert not page.is_visible("dialog")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.uncheck("dialog input[type=checkbox]")
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("p")
    page.wait_for_timeout(100)
    assert "/prompt" not in page.url


CONTRAST = """() => {
  const light = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.match(/[\\d.]+/g).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const probe = document.createElement('div');
  probe.className = 'strip';
  document.querySelector('main').append(probe);
  return [1, 2, 3, 4, 5, 6, 7, 8].map((shade) => {
    const token = document.createElement('span');
    token.className = `tok s${shade}`;
    probe.append(token);
    const { color, backgroundColor } = getComputedStyle(token);
    const [low, high] = [light(color), light(backgroundColor)].sort((a, b) => a - b);
    return { ratio: (high + 0.05) / (low + 0.05), ground: light(backgroundColor) };
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_are_eight_in_order_and_text_on_each_is_readable(visit: Start, made_up_url: str, scheme: str) -> None:
    page = visit(color_scheme=scheme).page()
    page.goto(made_up_url)
    settle(page)
    shades = page.evaluate(CONTRAST)
    assert min(shade["ratio"] for shade in shades) >= 4.5
    grounds = [shade["ground"] for shade in shades]
    assert grounds == sorted(grounds, reverse=scheme == "light")
    assert len(set(grounds)) == 8


def test_dark_as_the_system_has_it_and_a_choice_that_lasts(visit: Start, made_up_url: str) -> None:
    page = visit(color_scheme="dark").page()
    page.goto(made_up_url)
    ground = lambda: page.evaluate("() => getComputedStyle(document.body).backgroundColor")  # noqa: E731
    dark = ground()
    assert max(int(c) for c in re.findall(r"\d+", dark)) < 60
    page.click("button[aria-label^=Colours]")
    light = ground()
    assert min(int(c) for c in re.findall(r"\d+", light)) > 200
    page.reload()
    settle(page)
    assert ground() == light
    page.click("button[aria-label^=Colours]")
    page.click("button[aria-label^=Colours]")
    assert ground() == dark


def violations(page: Any, rules: list[str] | None = None) -> list[str]:
    """Axe's serious and critical findings. Evaluated by the browser's debugger, so the page's policy needs no hole."""
    import axe_playwright_python

    if not page.evaluate("() => 'axe' in window"):
        page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    options = {"resultTypes": ["violations"], "preload": False} | ({"runOnly": rules} if rules else {})
    # Of what is repeated, the first few stand for all.
    where = {
        "exclude": [
            [".card:nth-child(n+4)"],
            [".example:nth-child(n+3)"],
            ["tr:nth-child(n+5)"],
            [".ranking li:nth-child(n+5)"],
            [".stretch:nth-child(n+3)"],
        ]
    }
    found = page.evaluate("([where, options]) => axe.run(where, options)", [where, options])["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]


@pytest.mark.parametrize(
    ("view", "where"),
    [
        *((view, "explorer_url") for view in VIEWS),
        ("overview", "made_up_url"),
        ("table", "made_up_url"),
        ("document", "made_up_url"),
    ],
)
def test_axe_finds_nothing_serious_and_a_phone_needs_no_sideways_scrolling(
    visit: Start, request: pytest.FixtureRequest, view: str, where: str
) -> None:
    page = visit(reduced_motion="reduce").page()
    page.goto(address(page, request.getfixturevalue(where), view))
    settle(page)
    assert violations(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.evaluate("() => (document.documentElement.dataset.theme = 'dark')")
    assert violations(page, ["color-contrast"]) == []


def test_axe_finds_nothing_serious_in_what_opens(visit: Start, made_up_url: str) -> None:
    page = visit(reduced_motion="reduce").page()
    page.goto(f"{made_up_url}/#/c/main/feature/2")
    settle(page)
    page.click("text=edit")
    page.locator(".examples .tok").first.click()
    page.wait_for_selector(".at .rows")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert violations(page) == []


def test_hostile_text_is_only_ever_text(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/feature/5?text={quote('<b onclick=1>x</b> <script>html</script>')}")
    settle(page)
    page.wait_for_selector(".try .tok")
    assert "<img src=x onerror=" in page.locator("main h1").text_content()
    assert page.locator("main :is(img, script, b[onclick], iframe, object)").count() == 0
    assert "onclick" in page.locator(".try .strip").text_content()
    hostile = "<svg onload=\"document.title='owned'\">\u202e"
    page.click("text=edit")
    page.fill(".label-form input", hostile)
    page.click("text=Save")
    page.wait_for_selector(".label-form", state="detached")
    page.fill("#note", hostile * 50)
    page.click("text=Save note")
    page.wait_for_selector("text=Save note", state="detached")
    page.fill("[list=known-lists]", "<i>list</i>")
    page.click("text=Add")
    page.wait_for_selector(".chips .chip")
    page.reload()
    settle(page)
    assert "<svg onload=" in page.locator("main h1").text_content()
    assert page.input_value("#note") == hostile * 50
    assert page.locator(".chips").text_content().startswith("<i>list</i>")
    assert page.locator("main .strip svg, main h1 svg, .chips i").count() == 0
    assert "owned" not in page.title() or "<svg" in page.title()
    assert page.evaluate("() => document.title.startsWith('#5 ')")


def test_right_to_left_text_keeps_its_place(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    text = "abc שלום def مرحبا ghi"
    page.goto(f"{made_up_url}/#/c/main/feature/6?text={quote(text)}")
    page.wait_for_selector(".try .tok:not(.s0)")
    left = page.eval_on_selector_all(".try .tok", "spans => spans.map(span => span.getBoundingClientRect().left)")
    assert left == sorted(left)
    page.fill("#try", "שלום עולם abc مرحبا بالعالم")
    page.wait_for_selector(".try .strip[dir=rtl]")
    left = page.eval_on_selector_all(".try .tok", "spans => spans.map(span => span.getBoundingClientRect().left)")
    assert left == sorted(left, reverse=True)


def test_what_cannot_be_seen_is_shown(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/feature/0")
    settle(page)
    page.fill("#try", "one\n\ntwo\tthree\u202efour\u200bfive 👩\u200d👧")
    page.wait_for_selector(".try .tok")
    shown = page.locator(".try .strip").text_content()
    for sign in ("↵", "→", "‹202E›", "‹200B›"):
        assert sign in shown
    tops = page.eval_on_selector_all(
        ".try .tok", "spans => spans.map(span => Math.round(span.getBoundingClientRect().top))"
    )
    assert len(set(tops)) == 3  # one, an empty line, two …


def test_two_people_edit_a_label_and_neither_is_lost(visit: Start, made_up_url: str) -> None:
    mine, theirs = visit(), visit()
    pages = [mine.page(), theirs.page()]
    for page in pages:
        page.goto(f"{made_up_url}/#/c/main/feature/9")
        settle(page)
        page.click("text=edit")
    pages[1].fill(".label-form input", "theirs, first")
    pages[1].keyboard.press("Enter")
    pages[1].wait_for_selector(".label-form", state="detached")
    pages[0].fill(".label-form input", "mine, second")
    pages[0].keyboard.press("Enter")
    pages[0].wait_for_selector(".conflict")
    mine.forgive("409")
    assert "theirs, first" in pages[0].locator(".conflict").text_content()
    assert pages[0].input_value(".label-form input") == "mine, second"
    pages[0].click("text=Use mine")
    pages[0].wait_for_selector(".label-form", state="detached")
    assert "mine, second" in pages[0].locator("main h1").text_content()
    pages[0].click(".history summary")
    history = pages[0].locator(".history").text_content()
    assert "theirs, first" in history
    assert "mine, second" in history


def test_two_people_edit_a_note_and_neither_is_lost(visit: Start, made_up_url: str) -> None:
    mine, theirs = visit(), visit()
    pages = [mine.page(), theirs.page()]
    for page in pages:
        page.goto(f"{made_up_url}/#/c/main/feature/10")
        settle(page)
    for page, text in zip(reversed(pages), ("theirs", "mine"), strict=True):
        page.fill("#note", text)
        page.click("text=Save note")
    pages[0].wait_for_selector(".conflict")
    mine.forgive("409")
    assert "theirs" in pages[0].locator(".conflict").text_content()
    assert pages[0].input_value("#note") == "mine"
    pages[0].click("text=Replace with mine")
    pages[0].wait_for_selector(".conflict", state="detached")
    pages[1].reload()
    settle(pages[1])
    assert pages[1].input_value("#note") == "mine"


def test_an_address_restores_what_its_sender_saw_and_back_goes_back(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/prompt")
    settle(page)
    page.fill("#search", SENTENCE)
    page.wait_for_selector(".prompt .tok:not(.s0)")
    page.click(".strip .tok:has-text('Apollo')")
    page.wait_for_function("() => location.hash.includes('token=')")
    page.click("[aria-label='Pin feature 1']")
    page.click("[aria-label='Colour by feature 1']")
    page.wait_for_selector(".followed li.on")
    seen = lit(page, ".prompt > .loaded > .strip")
    assert seen == [" Apollo"]
    other = visit().page()
    other.goto(page.url)
    other.wait_for_selector(".followed li.on")
    settle(other)
    assert other.input_value("#search") == SENTENCE
    assert lit(other, ".prompt > .loaded > .strip") == seen
    assert other.locator(".tok.chosen").text_content() == " Apollo"

    page.click(".followed .feature-link")
    page.wait_for_selector(".feature-head")
    page.go_back()
    page.wait_for_selector(".followed li.on")
    assert page.input_value("#search") == SENTENCE
    page.go_forward()
    page.wait_for_selector(".feature-head")


def test_back_finds_the_list_where_it_was_left(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/browse")
    settle(page)
    page.locator(".card .feature-link").nth(25).scroll_into_view_if_needed()
    left = page.evaluate("() => scrollY")
    assert left > 500
    page.locator(".card .feature-link").nth(25).click()
    page.wait_for_selector(".feature-head")
    assert page.evaluate("() => scrollY") == 0
    page.go_back()
    page.wait_for_function(f"() => Math.abs(scrollY - {left}) < 2")
    page.click("text=next ›")
    page.wait_for_function("() => location.hash.includes('offset=30') && scrollY === 0")


def test_a_note_not_yet_saved_outlasts_a_look_elsewhere(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/feature/20")
    settle(page)
    page.fill("#note", "half a thought")
    page.click(".walk a[rel=next]")
    page.wait_for_function("() => location.hash.includes('feature/21')")
    settle(page)
    assert page.input_value("#note") == ""
    page.go_back()
    page.wait_for_function("() => document.querySelector('#note')?.value === 'half a thought'")


def loads_again(page: Any) -> None:
    """As after the server's return, or the end of a job: what is shown is asked for once more."""
    page.evaluate("async () => void ((await import('/static/api.js')).returns.value += 1)")


def test_a_slow_write_stays_with_the_feature_it_was_made_on(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    held: list[Any] = []
    page.route(
        re.compile("features/30/(lists|label)$"),
        lambda route: held.append(route) if route.request.method == "PUT" else route.continue_(),
    )
    page.goto(f"{made_up_url}/#/c/main/feature/30")
    settle(page)
    page.fill("[list=known-lists]", "only there")
    page.click("text=Add")
    page.click("text=edit")
    page.fill(".label-form input", "only there")
    page.keyboard.press("Enter")
    page.click(".walk a[rel=next]")
    page.wait_for_selector("h1 .number:text-is('#31')")
    settle(page)
    assert page.locator(".label-form").count() == 0
    for route in held:
        with page.expect_response(re.compile("features/30/")):
            route.continue_()
    page.wait_for_function("() => document.querySelector('#said').textContent === 'Label saved'")
    assert page.locator(".chips").count() == 0
    assert "only there" not in page.text_content("main h1")
    page.fill("[list=known-lists]", "another")
    page.click("text=Add")
    page.wait_for_selector(".chips .chip")
    api = f"{made_up_url}/api/coders/main/features"
    found = [page.request.get(f"{api}/{feature}").json() for feature in (30, 31)]
    assert [one["lists"] for one in found] == [["only there"], ["another"]]
    assert found[0]["label"]["text"] == "only there"


def test_a_draft_is_not_saved_over_what_its_writer_has_not_seen(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    api = f"{made_up_url}/api/coders/main/features/33"

    def they_write(subject: str, text: str) -> None:
        answer = page.request.put(f"{api}/{subject}", data={"text": text, "revision": 0}, headers={"X-Saescope": "1"})
        assert answer.ok

    page.goto(f"{made_up_url}/#/c/main/feature/33")
    settle(page)
    page.fill("#note", "mine, begun before")
    page.click(".walk a[rel=next]")
    page.wait_for_selector("h1 .number:text-is('#34')")
    they_write("note", "theirs")
    page.go_back()
    page.wait_for_selector("h1 .number:text-is('#33')")
    page.wait_for_selector(".conflict")
    assert "theirs" in page.text_content(".conflict")
    assert page.input_value("#note") == "mine, begun before"
    page.click("text=Keep theirs")
    page.wait_for_selector(".conflict", state="detached")
    assert page.input_value("#note") == "theirs"

    page.click("text=edit")
    page.fill(".label-form input", "my label")
    they_write("label", "their label")
    loads_again(page)
    page.wait_for_selector(".label-form .conflict")
    assert "their label" in page.text_content(".conflict")
    page.click("text=Use mine")
    page.wait_for_selector(".label-form", state="detached")
    assert page.request.get(api).json()["label"]["text"] == "my label"


def test_filters_sorts_and_pages_are_in_the_address(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/browse?form=phrase&min_score=0.7&sort=score&as=table")
    settle(page)
    scores = [float(text) for text in page.locator(".features td:nth-of-type(3)").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) >= 0.7
    assert set(page.locator(".features td:nth-of-type(6)").all_text_contents()) == {"phrase"}
    page.goto(f"{made_up_url}/#/c/main/browse")
    settle(page)
    page.click("text=next ›")
    page.wait_for_function("() => location.hash.includes('offset=30')")
    settle(page)
    assert page.locator(".card").first.get_attribute("data-feature") == "30"
    assert "page 2 of 8" in page.locator(".pages").text_content()


def ringed(page: Any) -> tuple[str, bool]:
    """The ringed token of a document, and whether it can be seen."""
    (found,) = page.eval_on_selector_all(
        ".reading .tok.peak",
        "spans => spans.map(span => { const box = span.getBoundingClientRect();"
        " return [span.textContent, box.top > 40 && box.bottom < innerHeight - 40 && !span.classList.contains('s0')]; })",
    )
    return found[0], found[1]


def place(page: Any) -> int:
    return int(re.search(r"[?&]at=(\d+)", page.url)[1])


def test_a_document_from_its_title_to_the_next_firing_and_back(visit: Start, explorer_url: str) -> None:
    """On the server itself, whose index says which token is the next."""
    page = visit().page()
    page.goto(address(page, explorer_url, "feature"))
    settle(page)
    example = page.locator(".example").first
    peak = example.locator(".tok.peak").text_content()
    title = example.locator("cite").text_content()
    example.locator("cite a").click()
    page.wait_for_selector(".reading .tok.peak")
    settle(page)
    assert page.locator("main h1").text_content() == title
    assert ringed(page) == (peak, True)
    assert page.evaluate("() => document.activeElement.classList.contains('peak')")
    coder, number, feature = re.search(r"#/c/([^/]+)/document/(\d+)\?feature=(\d+)", page.url).groups()
    told = page.request.get(f"{explorer_url}/api/coders/{coder}/documents/{number}?feature={feature}").json()
    assert f"{told['firings']['total']} in the whole document" in page.locator(".firings").text_content()
    fires = [token["p"] for stretch in told["stretches"] for token in stretch["tokens"] if token["v"] > 0]
    at = place(page)
    order = [one for one in fires if one > at][:1] or [one for one in fires if one < at][-1:]
    direction = "next" if order[0] > at else "prev"
    page.click(f".walk a[rel={direction}]")
    page.wait_for_function(f"() => location.hash.includes('at={order[0]}')")
    assert ringed(page)[1]
    page.go_back()
    page.wait_for_function(f"() => location.hash.includes('at={at}')")
    assert ringed(page) == (peak, True)
    page.go_back()
    page.wait_for_selector(".feature-head")


def test_a_long_document_is_walked_over_its_pages_by_keyboard(visit: Start, made_up_url: str) -> None:
    start = visit()
    page = start.page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/documents/" in request.url else None)
    page.goto(f"{made_up_url}/#/c/main/document/1?feature=0&token=100200003")
    settle(page)
    told = page.request.get(f"{made_up_url}/api/coders/main/documents/1?feature=0").json()
    firings, pages = told["firings"], -(-told["length"] // 2000)
    assert pages >= 2
    assert firings["next"]
    assert f"fires on {firings['here']} tokens here, {firings['total']} in the whole" in page.text_content(".firings")
    assert page.locator(".reading .tok.peak").count() == 0
    tokens = [token for stretch in told["stretches"] for token in stretch["tokens"]]
    fires = [token for token in tokens if token["v"] > 0]
    n_loads = len(asked)
    for token in fires[:3]:
        page.keyboard.press("j")
        page.wait_for_function(f"() => location.hash.endsWith('at={token['p']}')")
        assert ringed(page) == (token["t"], True)
        assert page.evaluate("() => document.activeElement.classList.contains('peak')")
    page.keyboard.press("k")
    page.wait_for_function(f"() => location.hash.endsWith('at={fires[1]['p']}')")
    # What is on the page is not asked for again.
    assert len(asked) == n_loads
    page.click(".firings p a")
    page.wait_for_function(f"() => location.hash.endsWith('at={firings['next']['position']}')")
    page.wait_for_function("() => document.querySelector('.pages').textContent.includes('page 2 of')")
    settle(page)
    assert ringed(page)[1]
    page.keyboard.press("k")
    page.wait_for_function(f"() => location.hash.endsWith('at={fires[-1]['p']}')")
    page.wait_for_function("() => document.querySelector('.pages').textContent.includes('page 1 of')")
    settle(page)
    assert ringed(page) == (fires[-1]["t"], True)

    page.click("[aria-label='Last page']")
    page.wait_for_function(f"() => location.hash.endsWith('offset={(pages - 1) * 2000}') && scrollY === 0")
    settle(page)
    assert "the last 12 tokens of the document are not in the index" in page.text_content(".reading")
    page.go_back()
    page.wait_for_function(f"() => location.hash.endsWith('at={fires[-1]['p']}')")
    settle(page)
    assert ringed(page)[1]
    page.click("text=no colours")
    page.wait_for_selector(".firings", state="detached")
    assert lit(page, ".reading") == []


def test_a_documents_text_is_text_and_its_gaps_are_told(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/document/4?feature=5")
    settle(page)
    assert page.text_content("main h1") == "Cross-site <b>scripting</b>"
    assert "<script>alert('x')</script>" in page.text_content(".reading")
    assert page.locator("main :is(script, img, b)").count() == 0
    assert page.locator(".begins").all_text_contents()[0].startswith("gap")
    page.locator(".stretch").nth(1).locator(".tok").nth(3).click()
    page.wait_for_selector(".stretch .at .rows")
    page.reload()
    page.wait_for_selector(".stretch .at .rows")
    assert page.locator(".stretch").nth(1).locator(".tok.chosen").count() == 1


def test_a_label_is_shown_beside_its_controls(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/feature/1")
    settle(page)
    shown = " ".join(page.locator(".controls div").all_text_contents())
    assert shown == "score0.9 (95 %: 0.88 to 0.95) another feature’s label0.52 its most frequent token alone0.81"
    page.goto(f"{made_up_url}/#/c/main/feature/17")
    settle(page)
    assert page.locator(".controls").count() == 0


def test_two_texts_and_two_coders_are_compared(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/prompt?mode=two&text=Einstein&b=Apollo")
    page.wait_for_selector(".differences tbody tr")
    rows = {
        row.get_attribute("data-feature"): row.text_content() for row in page.locator(".differences tbody tr").all()
    }
    assert "+13" in rows["1"]
    assert "−" in rows["0"]
    page.goto(f"{made_up_url}/#/c/main/compare?what=coders&text=Einstein")
    page.wait_for_selector(".compare .ranking li")
    assert page.locator(".compare .loaded section h2").all_text_contents() == ["matryoshka-4096", "topk-4096"]
    page.goto(f"{made_up_url}/#/c/main/compare?a=0&b=1")
    page.wait_for_selector(".relation")
    assert "decoder cosine 0.7" in page.locator(".relation").text_content()


def test_every_feature_that_is_named_colours_where_it_fires(visit: Start, made_up_url: str) -> None:
    """Also one that is not among a token's ten strongest."""
    page = visit().page()
    text = "Einstein saw Apollo"
    asked = {"text": text, "features": [], "top": 10}
    header = {"X-Saescope": "1"}
    told = page.request.post(f"{made_up_url}/api/coders/main/prompt", data=asked, headers=header).json()
    hidden = [
        row["feature"]
        for row in told["strongest"]
        if row["feature"] not in [one["feature"] for one in told["tokens"][row["token"]]["top"]]
    ]
    assert hidden
    page.goto(f"{made_up_url}/#/c/main/browse?by=text&text={quote(text)}")
    for row in told["strongest"]:
        if row["feature"] in hidden:
            page.focus(f".ranking [data-feature='{row['feature']}'] a")
            page.wait_for_selector(f".count >> text=coloured by #{row['feature']}")
            assert lit(page, ".by-text") == [told["tokens"][i]["t"] for i in row["at"]]
    page.goto(f"{made_up_url}/#/c/main/prompt?mode=two&text={quote(text)}&b=lakes&color={hidden[0]}")
    page.wait_for_selector(".differences tr.on")
    (row,) = [row for row in told["strongest"] if row["feature"] == hidden[0]]
    assert lit(page, ".prompt .two")[: len(row["at"])] == [told["tokens"][i]["t"] for i in row["at"]]


def test_that_a_feature_does_not_fire_is_said_only_once_it_is_known(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    text = quote("Einstein saw Apollo")
    page.goto(f"{made_up_url}/#/c/main/feature/0?text={text}")
    page.wait_for_selector(".told >> text=Strongest on")
    held: list[Any] = []

    def answer() -> None:
        with page.expect_response("**/prompt"):
            held.pop().continue_()

    page.route("**/prompt", lambda route: held.append(route))
    page.click(".walk a[rel=next]")
    page.wait_for_selector("h1 .number:text-is('#1')")
    page.wait_for_function("() => !document.querySelector('.told').textContent.includes('Strongest')")
    assert "does not fire" not in page.text_content(".told")
    answer()
    page.wait_for_selector(".told >> text=Strongest on Apollo")

    page.goto(f"{made_up_url}/#/c/main/prompt?text={text}")
    page.wait_for_timeout(100)
    answer()
    page.click("[aria-label='Pin feature 1']")
    page.wait_for_selector(".followed li")
    assert "does not fire" not in page.text_content(".followed li")
    answer()
    page.wait_for_selector(".followed li >> text=fires on 1 of")


def test_steering_can_be_stopped(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    page.goto(f"{made_up_url}/#/c/main/feature/0?tool=steer&text=slowly%20now&strength=-1.5")
    settle(page)
    assert page.input_value("#strength") == "-1.5"
    page.click("button.primary")
    page.wait_for_selector(".completion .tok")
    page.click("text=Stop")
    page.wait_for_selector("button.primary")
    written = page.locator(".completion .tok").count()
    assert 0 < written < 10
    page.wait_for_timeout(600)
    assert page.locator(".completion .tok").count() == written


def test_a_server_that_has_gone_is_told_and_its_return_noticed(visit: Start, made_up_url: str) -> None:
    start = visit()
    page = start.page()
    page.goto(made_up_url)
    settle(page)
    start.context.route("**/api/**", lambda route: route.abort("connectionrefused"))
    page.click("header.top nav >> text=Browse")
    page.wait_for_selector(".away")
    assert "does not answer" in page.locator(".away").text_content()
    start.context.unroute("**/api/**")
    page.wait_for_selector(".away", state="detached")
    page.wait_for_selector(".cards .card")
    start.forgive("ERR_CONNECTION_REFUSED")


def test_errors_are_one_line_each(visit: Start, made_up_url: str) -> None:
    start = visit()
    page = start.page()
    page.goto(f"{made_up_url}/#/c/main/feature/99999")
    page.wait_for_selector(".problem")
    assert page.locator(".problem").text_content().strip() == "Feature 99999 does not exist; the coder has 240."
    start.forgive("404")
    page.goto(f"{made_up_url}/#/c/nobody/browse")
    page.wait_for_selector("text=no coder nobody")
    page.goto(f"{made_up_url}/#/c/still/prompt")
    page.wait_for_selector(".problem")
    assert "The model of this index is not on this machine." in page.locator(".problem").text_content()


def test_jobs_show_their_progress_and_are_asked_for_only_while_they_run(visit: Start, made_up_url: str) -> None:
    page = visit().page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/api/jobs") else None)
    page.goto(made_up_url)
    settle(page)
    page.wait_for_timeout(1100)
    assert asked == []
    page.click("text=Label features")
    page.wait_for_selector(".jobs progress")
    assert "scoring labels" in page.locator(".jobs").text_content()
    page.wait_for_selector(".jobs", state="detached")
    done = len(asked)
    assert done >= 2
    page.wait_for_timeout(1100)
    assert len(asked) == done


def test_the_end_of_another_processs_job_is_noticed(visit: Start, made_up_url: str) -> None:
    """It is only not there any more; what is shown may have new labels."""
    page = visit().page()
    job = {"id": "labelling-main", "kind": "label", "coder": "main", "stage": "score", "done": 1, "total": 2}
    running = [{**job, "state": "running", "message": ""}]
    page.route("**/api/jobs", lambda route: route.fulfill(json=list(running)))

    # Asked for beforehand: a route that asks when the page is being closed gets no answer.
    workspace = page.request.get(f"{made_up_url}/api/workspace").json()
    page.route("**/api/workspace", lambda route: route.fulfill(json={**workspace, "jobs": list(running)}))
    page.goto(f"{made_up_url}/#/c/main/browse")
    page.wait_for_selector(".job.running")
    settle(page)
    with page.expect_request("**/features?*"):
        running.clear()
    page.wait_for_selector(".jobs", state="detached")
    assert "done" in page.text_content("#said")
