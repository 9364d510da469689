"""A person's text through the model: what fires is what the library says fires; steering streams; the model is shared."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from starlette.requests import Request
from tests.measured import POINT, tiny_lm
from tests.server.conftest import HEADERS, HERE
from tests.server.visiting import served
from transformers import PreTrainedTokenizerFast

from saescope.activations import KeptRule
from saescope.coders import load
from saescope.errors import ModelError, SaescopeError
from saescope.features import FeatureIndex
from saescope.lm import LanguageModel
from saescope.server import answers, create_app
from saescope.server.model_worker import Busy, Cancelled, ClientGone, ModelWorker, Stop
from saescope.server.plain_text import plain
from saescope.steering import added, continuation_perplexity
from saescope.text import TokenText

CODER = "/api/coders/random"
LIVE = 0
"""A feature that fires on the indexed text."""
TEXT = "The quick brown fox, naïve 日本 😀 jumps over the lazy dog."


def prompt(client: TestClient, text: str = TEXT, **more: Any) -> answers.PromptResult:
    response = client.post(f"{CODER}/prompt", json={"text": text, **more})
    assert response.status_code == 200, response.text
    return answers.PromptResult.model_validate_json(response.content, strict=True)


def dense_codes(lm: LanguageModel, workspace: Path, text: str) -> tuple[list[int], torch.Tensor]:
    """What the library itself finds: ids, and [tokens, d_sae] with zeros where the coder's rule leaves out."""
    coder = load(workspace / "coder")
    # The coder says nothing of a BOS, and the tokenizer has none of its own: a text stands behind a separator.
    ids = [0, *lm.tokenizer(text, add_special_tokens=False)["input_ids"]]
    x = lm.run(torch.tensor([ids]), capture=[POINT]).activations[POINT][0]
    codes = coder.encode(x).dense().detach()
    codes[torch.isin(torch.tensor(ids), torch.tensor([0, 1, 2]))] = 0
    return ids, codes


def test_what_fires_on_a_prompt_is_what_the_library_says(
    client: TestClient, lm: LanguageModel, workspace: Path, index: FeatureIndex
) -> None:
    pinned = [3, 7, 11]
    found = prompt(client, features=pinned, top=50)
    ids, codes = dense_codes(lm, workspace, TEXT)
    assert "".join(token.t for token in found.tokens) == TEXT
    assert len(found.tokens) < len(ids) - 1, "the text has characters of several tokens"
    pieces = TokenText(lm.tokenizer).pieces(ids)
    # A merged token has each feature's largest value over its own.
    at, spans = 1, []
    for number, token in enumerate(found.tokens):
        length = next(n for n in range(1, 6) if "".join(pieces[at : at + n]) == token.t)
        own = codes[at : at + length].amax(0)
        spans.append(own)
        expected = {i: v for i, v in enumerate(own.tolist()) if v > 0}
        assert {one.feature: one.value for one in token.top} == pytest.approx(expected, rel=1e-3)
        values = [one.value for one in token.top]
        assert values == sorted(values, reverse=True)
        for feature in pinned:
            assert found.pinned[str(feature)][number] == pytest.approx(float(own[feature]), rel=1e-3)
        at += length
    peaks = codes.amax(0)
    assert {one.feature for one in found.strongest} == set(torch.nonzero(peaks > 0).flatten().tolist()[:50]) or len(
        found.strongest
    ) == 50
    for one in found.strongest:
        assert one.value == pytest.approx(float(peaks[one.feature]), rel=1e-3)
        assert one.value == pytest.approx(
            max(top.value for top in found.tokens[one.token].top if top.feature == one.feature), rel=1e-3
        )
        # On every token, also where ten others are stronger.
        everywhere = {i: float(own[one.feature]) for i, own in enumerate(spans) if own[one.feature] > 0}
        assert dict(zip(one.at, one.values, strict=True)) == pytest.approx(everywhere, rel=1e-3)
        if index.count[one.feature]:
            share = float(peaks[one.feature]) / float(index.maximum[one.feature])
            surprise = -np.log(max(index.density[one.feature], 1 / (1 + index.n_tokens)))
            assert one.unusual == pytest.approx(share * surprise, rel=1e-2, abs=1e-6)
    assert [one.unusual for one in found.strongest] == sorted((one.unusual for one in found.strongest), reverse=True)
    assert set(found.labels) <= set(found.maxima)
    assert not found.truncated


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "a\0b\x07", "\u202eabc", "half \ud800", "שלום עולם", "<|endoftext|>", "  \n\n "],
)
def test_hostile_prompts_are_text(client: TestClient, text: str) -> None:
    response = client.post(
        f"{CODER}/prompt", content=json.dumps({"text": text}), headers={"content-type": "application/json"}
    )
    assert response.status_code == 200, response.text
    shown = "".join(token["t"] for token in response.json()["tokens"])
    assert not any(bad in shown for bad in "\0\x07\u202e")
    if "<" in text or "ש" in text:
        assert shown == text


def test_long_prompts_are_cut_and_longer_ones_refused(client: TestClient) -> None:
    long = prompt(client, "dog " * 2000)
    assert long.truncated
    assert len(long.tokens) == answers.TOKEN_LIMIT - 1
    assert client.post(f"{CODER}/prompt", json={"text": "x" * 20_001}).status_code == 422
    assert client.post(f"{CODER}/prompt", json={"text": "x" * 1_000_000}).status_code == 413
    assert client.post(f"{CODER}/prompt", json={"text": ""}).status_code == 422
    assert client.post(f"{CODER}/prompt", json={}).status_code == 422
    assert client.post(f"{CODER}/prompt", json={"text": "a", "features": [60]}).status_code == 404


def test_more_tokens_than_the_limit_are_cut_off(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, lm: LanguageModel
) -> None:
    monkeypatch.setattr("saescope.server.prompting.TOKEN_LIMIT", 9)
    found = prompt(client)
    assert found.truncated
    assert TEXT.startswith("".join(token.t for token in found.tokens[:-1]))


def test_turns_need_a_template_and_take_one(
    client: TestClient, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"turns": [{"role": "user", "content": "the dog \ud800"}]}
    sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
    response = client.post(f"{CODER}/prompt", **sent)  # type: ignore[arg-type]
    assert response.status_code == 422
    assert "chat template" in response.json()["detail"]
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    monkeypatch.setattr(lm.tokenizer, "chat_template", template)
    shown = client.post(f"{CODER}/prompt", **sent).json()["tokens"]  # type: ignore[arg-type]
    assert "".join(token["t"] for token in shown) == "[user] the dog \ufffd\n"
    assert client.post(f"{CODER}/prompt", json={"turns": [{"role": "wizard", "content": "a"}]}).status_code == 422
    monkeypatch.setattr(lm.tokenizer, "chat_template", "{{ raise_exception('no') }}")
    refused = client.post(f"{CODER}/prompt", json={"turns": [{"role": "user", "content": "a"}]})
    assert (refused.status_code, "\n" in refused.json()["detail"]) == (422, False)


def test_two_prompts_compared(client: TestClient, lm: LanguageModel, workspace: Path, index: FeatureIndex) -> None:
    a, b = "the lazy dog", "the quick fox"
    response = client.post("/api/compare/prompts", json={"coder": "random", "a": a, "b": b})
    found = answers.ComparedPrompts.model_validate_json(response.content, strict=True)
    peaks = [dense_codes(lm, workspace, text)[1].amax(0) for text in (a, b)]
    for one in found.features:
        assert one.a == pytest.approx(float(peaks[0][one.feature]), rel=1e-3)
        assert one.b == pytest.approx(float(peaks[1][one.feature]), rel=1e-3)
        assert one.difference == pytest.approx(one.b - one.a, abs=1e-2)
        assert (max(one.on_a.values, default=0.0), max(one.on_b.values, default=0.0)) == (one.a, one.b)
    assert {one.feature for one in found.features} == set(torch.nonzero(peaks[0] + peaks[1]).flatten().tolist())
    assert "".join(token.t for token in found.b.tokens) == b
    same = client.post("/api/compare/prompts", json={"coder": "random", "a": a, "b": a}).json()
    assert all(one["difference"] == 0 for one in same["features"])


def test_coders_compared(client: TestClient) -> None:
    response = client.post("/api/compare/coders", json={"coders": ["random", "random"], "text": TEXT})
    found = answers.ComparedCoders.model_validate_json(response.content, strict=True)
    alone = prompt(client).model_dump()
    for result in found.results:
        assert result.model_dump(exclude={"coder"}) == alone
    assert client.post("/api/compare/coders", json={"coders": ["nobody"], "text": "a"}).status_code == 404


def steered(client: TestClient, **asked: Any) -> list[dict[str, Any]]:
    body = {"text": "the lazy dog", "feature": LIVE, "strength": 4.0, "max_new_tokens": 12, **asked}
    response = client.post(f"{CODER}/steer", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def said(events: list[dict[str, Any]], which: str) -> str:
    return "".join(event["t"] for event in events if event["event"] == "token" and event["which"] == which)


def test_steering_streams_both_completions_as_the_library_makes_them(
    client: TestClient, lm: LanguageModel, workspace: Path, index: FeatureIndex
) -> None:
    events = steered(client)
    coder = load(workspace / "coder")
    ids = torch.tensor([[0, *lm.tokenizer("the lazy dog", add_special_tokens=False)["input_ids"]]] * 2)
    rule = KeptRule.from_dict(coder.metadata.kept_rule)
    edits = added(coder, LIVE, (0.0, 4.0), maximum=float(index.maximum[LIVE]), rule=rule)
    whole = lm.generate(ids, edits=edits, max_new_tokens=12).tokens
    own = [[token for token in row if token not in lm.stop_ids] for row in whole]
    assert said(events, "baseline") == plain(lm.tokenizer.decode(own[0]))
    assert said(events, "steered") == plain(lm.tokenizer.decode(own[1]))
    assert said(events, "baseline") != said(events, "steered")
    start, end = events[0], events[-1]
    assert start["event"] == "start"
    assert start["prompt_tokens"] == ids.shape[1] - 1
    assert start["norm_of_edit"] == pytest.approx(
        4.0 * float(index.maximum[LIVE] * coder.W_dec[LIVE].detach().norm()), rel=1e-3
    )
    assert end["event"] == "end"
    prompt_ids = ids[0].tolist()
    for row, which in enumerate(("baseline", "steered")):
        expected = continuation_perplexity(lm, prompt_ids, own[row])
        assert end["perplexity"][which] == pytest.approx(expected, rel=1e-3)
    # What each token's value is: the feature's activation there, in a run without edits before it.
    values = [event["v"] for event in events if event.get("which") == "baseline"]
    x = lm.run(torch.tensor([prompt_ids + own[0]]), capture=[POINT]).activations[POINT][0, len(prompt_ids) :]
    alone = coder.encode(x).dense()[:, LIVE].tolist()
    if len(values) == len(alone):
        assert values == pytest.approx(alone, rel=2e-3, abs=1e-4)


def test_a_feature_that_never_fired_has_no_unit_to_steer_by(client: TestClient, index: FeatureIndex) -> None:
    silent = int(np.flatnonzero(index.count == 0)[0])
    response = client.post(f"{CODER}/steer", json={"text": "the dog", "feature": silent, "strength": 1.0})
    assert response.status_code == 422
    assert "never fired" in response.json()["detail"]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_at_strength_zero_both_say_the_same(client: TestClient, temperature: float) -> None:
    events = steered(client, strength=0.0, temperature=temperature, seed=5)
    assert said(events, "baseline") == said(events, "steered") != ""
    assert events[-1]["perplexity"]["baseline"] == events[-1]["perplexity"]["steered"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"feature": 60}, 404),
        ({"strength": 1e9}, 422),
        ({"strength": "NaN"}, 422),
        ({"max_new_tokens": 129}, 422),
        ({"max_new_tokens": 0}, 422),
        ({"temperature": -1}, 422),
        ({"text": ""}, 422),
        ({"text": None}, 422),
        ({"seed": -1}, 422),
    ],
)
def test_bad_steering_is_refused_in_one_line(client: TestClient, change: dict[str, Any], status: int) -> None:
    body = {"text": "the dog", "feature": LIVE, "strength": 1.0, **change}
    response = client.post(f"{CODER}/steer", json=body)
    assert response.status_code == status, response.text
    assert "\n" not in response.json()["detail"]


def test_what_fails_in_the_middle_is_a_last_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> float:
        raise ModelError("the model broke\nhere")

    monkeypatch.setattr("saescope.server.steered_stream.continuation_perplexity", fails)
    events = steered(client)
    assert events[0]["event"] == "start"
    assert events[-1] == {"event": "error", "detail": "the model broke here"}


def test_a_model_of_another_family_is_refused(
    workspace: Path, client_of: Callable[..., TestClient], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    other = tiny_lm(byte_tokenizer, name="other", seed=1)
    with client_of(workspace, lm=other) as client:
        client.app.state.served.worker.begin_loading()  # type: ignore[attr-defined]
        for path, body in (
            (f"{CODER}/prompt", {"text": "a"}),
            (f"{CODER}/steer", {"text": "a", "feature": 0, "strength": 1}),
        ):
            response = client.post(path, json=body)
            assert response.status_code == 409
            assert "was trained on" in response.json()["detail"]
        (coder,) = client.get("/api/workspace").json()["coders"]
        assert not coder["can_run"]
        assert "--model" in coder["why_not"]
        assert client.get(f"{CODER}/features/0").status_code == 200


def test_a_model_named_otherwise_than_in_the_index_is_asked_for_its_weights(
    workspace: Path, client_of: Callable[..., TestClient], lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LanguageModel, "load", lambda spec: lm)
    with client_of(workspace, lm=None, model="the-same/by-another-name") as client:
        for _ in range(2):
            (coder,) = client.get("/api/workspace").json()["coders"]
            assert coder["can_run"], coder["why_not"]
            assert client.post(f"{CODER}/prompt", json={"text": "the dog"}).status_code == 200


def test_a_coder_that_moved_or_changed_is_refused_and_its_index_still_read(
    workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    from tests.features.index.built import tiny_coder

    from saescope.coders import save

    (workspace / "coder" / "index").rename(workspace / "index")
    manifest = json.loads((workspace / "index" / "manifest.json").read_text())
    manifest["coder"]["path"] = "../coder"
    (workspace / "index" / "manifest.json").write_text(json.dumps(manifest))
    save(tiny_coder(seed=9), workspace / "coder")
    with client_of(workspace) as client:
        response = client.post(f"{CODER}/prompt", json={"text": "a"})
        assert response.status_code == 409
        assert "is not the one that was indexed" in response.json()["detail"]
    (workspace / "coder").rename(workspace / "gone")
    with client_of(workspace) as client:
        response = client.post(f"{CODER}/prompt", json={"text": "a"})
        assert response.status_code == 409
        assert "no longer at" in response.json()["detail"]
        assert client.get(f"{CODER}/features/0").status_code == 200


def test_a_coder_that_is_replaced_while_it_is_served_is_noticed(
    workspace: Path, client_of: Callable[..., TestClient]
) -> None:
    from tests.features.index.built import tiny_coder

    from saescope.coders import save

    def asked() -> tuple[int, str]:
        response = client.post(f"{CODER}/prompt", json={"text": "a"})
        return response.status_code, response.text

    with client_of(workspace) as client:
        shutil.copytree(workspace / "coder", workspace / "kept", ignore=shutil.ignore_patterns("index"))
        assert asked()[0] == 200
        save(tiny_coder(seed=9), workspace / "coder")
        assert asked()[0] == 409
        assert "is not the one that was indexed" in asked()[1]
        shutil.copytree(workspace / "kept", workspace / "coder", dirs_exist_ok=True)
        assert asked()[0] == 200


# The worker


def test_index_pages_do_not_wait_for_the_model(workspace: Path, lm: LanguageModel) -> None:
    """While the model is being loaded, which takes for ever, pages come at once."""
    release = threading.Event()

    def slow() -> LanguageModel:
        release.wait(30)
        return lm

    worker = ModelWorker("slow", load=slow)
    with TestClient(create_app(workspace, worker=worker), base_url=HERE, headers=HEADERS) as client:
        assert client.get("/api/workspace").json()["model"]["state"] == "absent"
        answer: list[int] = []
        asking = threading.Thread(
            target=lambda: answer.append(client.post(f"{CODER}/prompt", json={"text": "dog"}).status_code)
        )
        asking.start()
        until = time.monotonic() + 10
        while worker.state != "loading" and time.monotonic() < until:
            time.sleep(0.01)
        assert client.get("/api/workspace").json()["model"]["state"] == "loading"
        assert client.get(f"{CODER}/features/0").status_code == 200
        assert not answer
        release.set()
        asking.join(30)
        assert answer == [200]
        assert client.get("/api/workspace").json()["model"]["loaded"]


def test_a_model_that_cannot_be_had_is_told_and_tried_again(workspace: Path, lm: LanguageModel) -> None:
    tries: list[int] = []

    def at_second(_: object = None) -> LanguageModel:
        tries.append(1)
        if len(tries) == 1:
            raise ModelError("there is no such model")
        return lm

    worker = ModelWorker("odd", load=at_second)
    with TestClient(create_app(workspace, worker=worker), base_url=HERE, headers=HEADERS) as client:
        response = client.post(f"{CODER}/prompt", json={"text": "dog"})
        assert response.status_code == 409
        assert response.json()["detail"] == "there is no such model"
        assert client.get("/api/workspace").json()["model"]["message"] == "there is no such model"
        assert client.post(f"{CODER}/prompt", json={"text": "dog"}).status_code == 200


class _Client:
    """A request whose client can go away."""

    def __init__(self) -> None:
        self.gone = False

    async def is_disconnected(self) -> bool:
        return self.gone


def ready_worker(lm: LanguageModel, **limits: Any) -> ModelWorker:
    return ModelWorker("here", load=lambda: lm, **limits)


def asking(client: _Client) -> Request:
    return client  # type: ignore[return-value]


def test_the_queue_is_bounded(lm: LanguageModel) -> None:
    worker = ready_worker(lm, places=2, threads=1)
    release = threading.Event()

    async def main() -> None:
        async def one() -> int:
            return await worker.run(asking(_Client()), lambda lm, stop: (release.wait(10), 7)[1])

        first, second = asyncio.create_task(one()), asyncio.create_task(one())
        await anyio.sleep(0.2)
        with pytest.raises(Busy, match="2 requests wait"):
            await one()
        release.set()
        assert await first == await second == 7
        assert await one() == 7

    asyncio.run(main())


def test_who_goes_away_frees_a_place_in_the_queue(lm: LanguageModel) -> None:
    worker = ready_worker(lm, places=2, threads=1)
    release, ran = threading.Event(), []

    async def main() -> None:
        staying, leaving = _Client(), _Client()
        first = asyncio.create_task(worker.run(asking(staying), lambda lm, stop: release.wait(10)))
        await anyio.sleep(0.2)
        second = asyncio.create_task(worker.run(asking(leaving), lambda lm, stop: ran.append(1)))
        await anyio.sleep(0.2)
        leaving.gone = True
        with pytest.raises(ClientGone):
            await second
        third = asyncio.create_task(worker.run(asking(staying), lambda lm, stop: 3))
        await anyio.sleep(0.1)
        release.set()
        assert await first
        assert await third == 3

    asyncio.run(main())
    assert not ran, "what nobody waits for is never begun"


def test_work_that_takes_too_long_is_given_up_but_keeps_its_place(lm: LanguageModel) -> None:
    worker = ready_worker(lm, places=1, threads=1, running=0.3)
    release, told = threading.Event(), []

    def work(lm: LanguageModel, stop: Stop) -> None:
        release.wait(10)
        try:
            stop.check()
        except Cancelled:
            told.append(1)

    async def main() -> None:
        with pytest.raises(Busy, match="took too long"):
            await worker.run(asking(_Client()), work)
        # Its thread still runs: one more would be one too many.
        with pytest.raises(Busy, match="1 requests wait"):
            await worker.run(asking(_Client()), lambda lm, stop: 1)
        release.set()
        await anyio.sleep(0.3)
        assert await worker.run(asking(_Client()), lambda lm, stop: 1) == 1

    asyncio.run(main())
    assert told == [1]


def test_waiting_for_the_model_ends(lm: LanguageModel) -> None:
    worker = ModelWorker("slow", load=lambda: (time.sleep(1.0), lm)[1], loading=0.1)

    async def main() -> None:
        with pytest.raises(Busy, match="slow is still loading"):
            await worker.run(asking(_Client()), lambda lm, stop: 1)

    asyncio.run(main())


def test_a_stream_ends_when_its_reader_does(lm: LanguageModel) -> None:
    worker = ready_worker(lm)
    closed, steps = [], []

    def work(lm: LanguageModel, stop: Stop) -> Generator[int, None, None]:
        try:
            for number in range(1000):
                stop.check()
                steps.append(number)
                yield number
        finally:
            closed.append(1)

    async def main() -> None:
        stream = worker.stream(work)
        assert [await anext(stream), await anext(stream)] == [0, 1]
        await stream.aclose()
        assert closed == [1]
        assert steps == [0, 1]
        # And when the server ends.
        other = worker.stream(work)
        assert await anext(other) == 0
        worker.stop()
        assert [one async for one in other] == []
        with pytest.raises(Busy, match="closing down"):
            await worker.run(asking(_Client()), lambda lm, stop: 1)

    asyncio.run(main())
    assert closed == [1, 1]


def test_an_unforeseen_failure_while_loading_is_one_line(lm: LanguageModel) -> None:
    def fails() -> LanguageModel:
        raise ZeroDivisionError("of\nsome sort")

    worker = ModelWorker("odd", load=fails)

    async def main() -> None:
        with pytest.raises(SaescopeError, match="odd could not be loaded: ZeroDivisionError, of some sort"):
            await worker.run(asking(_Client()), lambda lm, stop: 1)

    asyncio.run(main())


def test_a_tab_that_is_closed_ends_its_completion(
    workspace: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real connection: nothing is made for who no longer reads, and the place is free again."""
    steps: list[int] = []
    closed = threading.Event()

    def slow(*arguments: object, **more: object) -> Generator[dict[str, Any], None, None]:
        try:
            for number in range(2000):
                steps.append(number)
                yield {"event": "token", "t": "x" * 2000}
                time.sleep(0.01)
        finally:
            closed.set()

    monkeypatch.setattr("saescope.server.routes.steer.steered_events", slow)
    app = create_app(workspace, lm=lm)
    with served(app) as url:
        port = int(url.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = json.dumps({"text": "the dog", "feature": LIVE, "strength": 1.0})
        connection.request("POST", f"{CODER}/steer", body, {**HEADERS, "Content-Type": "application/json"})
        response = connection.getresponse()
        assert json.loads(response.readline())["event"] == "token"
        response.close()
        connection.close()
        assert closed.wait(10)
        assert len(steps) < 2000
        until = time.monotonic() + 5
        while app.state.served.worker._taken and time.monotonic() < until:
            time.sleep(0.01)
        assert not app.state.served.worker._taken


def test_a_tab_that_is_closed_before_the_first_token_gives_up_its_place(
    workspace: Path, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real connection, while the model is still being loaded."""
    release, begun = threading.Event(), []

    def events(*arguments: object, **more: object) -> Generator[dict[str, Any], None, None]:
        begun.append(1)
        yield {"event": "start"}

    monkeypatch.setattr("saescope.server.routes.steer.steered_events", events)
    worker = ModelWorker("slow", load=lambda: (release.wait(20), lm)[1], places=1)
    with served(create_app(workspace, worker=worker)) as url:
        port = int(url.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = json.dumps({"text": "the dog", "feature": LIVE, "strength": 1.0})
        connection.request("POST", f"{CODER}/steer", body, {**HEADERS, "Content-Type": "application/json"})

        def wait_for(taken: int) -> None:
            until = time.monotonic() + 5
            while len(worker._taken) != taken and time.monotonic() < until:
                time.sleep(0.01)
            assert len(worker._taken) == taken

        wait_for(1)
        connection.close()
        wait_for(0)
        release.set()
        connection.request("POST", f"{CODER}/steer", body, {**HEADERS, "Content-Type": "application/json"})
        assert json.loads(connection.getresponse().readline())["event"] == "start"
        connection.close()
    assert begun == [1], "what nobody waits for is never begun"


def test_what_nobody_thought_of_is_raised_as_it_is(lm: LanguageModel) -> None:
    worker = ready_worker(lm)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await worker.run(asking(_Client()), lambda lm, stop: 1 / 0)
        assert not worker._taken

    asyncio.run(main())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_refused(client: TestClient, number: str) -> None:
    """JSON has no such numbers, Python's reader takes them."""
    body = f'{{"text": "the dog", "feature": {LIVE}, "strength": {number}}}'
    response = client.post(f"{CODER}/steer", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert "\n" not in response.json()["detail"]
