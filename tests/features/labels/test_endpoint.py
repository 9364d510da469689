"""The client against servers that behave well and badly."""

from __future__ import annotations

import email.utils
import threading
import time

import pytest
from tests.features.labels.served import Asked, Script, Served, serving

from saescope.errors import ModelError, UsageError
from saescope.features.labels.endpoint import Endpoint, Patience, key_from_environment

QUICK = Patience(attempts=3, timeout=0.4, first_wait=0.01, longest_wait=0.3)


def first_then(*bad: Served) -> Script:
    """Fails in the given ways, then works."""
    return lambda asked, number: bad[number] if number < len(bad) else Served("fine")


def test_well_behaved_server_gets_what_the_protocol_asks_for() -> None:
    with serving(first_then()) as server:
        reply = Endpoint(server.url + "/", "small", key="secret", patience=QUICK).reply("be brief", "what?", 5)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("fine", 7, 3)
    asked = server.asked[0]
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == "Bearer secret"
    assert (asked.system, asked.prompt) == ("be brief", "what?")
    assert (asked.body["model"], asked.body["max_tokens"], asked.body["temperature"]) == ("small", 5, 0)


@pytest.mark.parametrize(
    "bad",
    [
        Served(status=500, raw=b"oops"),
        Served(status=503, raw=b""),
        Served(status=429, raw=b'{"error": {"message": "slow down"}}'),
        Served(raw=b"<html>not json</html>"),
        Served(raw=b'{"choices": []}'),
        Served(raw=b'{"choices": [{"message": {"content": null}}]}'),
        Served(raw=b"[]"),
        Served(raw=b"\xff\xfe\x00"),
        Served(silence=True),
        Served("slow" * 50, trickle=0.05),
        Served(raw=b'{"padding": "' + b"x" * 2**21 + b'"}'),
    ],
    ids=lambda bad: (
        f"{bad.status}-{(bad.raw or b'')[:12]!r}{'-silent' * bad.silence}{'-trickling' * bool(bad.trickle)}"
    ),
)
def test_failures_that_pass_are_tried_again(bad: Served) -> None:
    with serving(first_then(bad)) as server:
        assert Endpoint(server.url, "small", patience=QUICK).reply("", "", 5).text == "fine"
    assert len(server.asked) == 2


def test_failures_that_stay_end_in_one_line() -> None:
    with serving(lambda *_: Served(status=500, raw=b"line\none\x00\x1b[31m" + b"x" * 5000)) as server:
        with pytest.raises(ModelError) as caught:
            Endpoint(server.url, "small", key="secret", patience=QUICK).reply("", "", 5)
        assert len(server.asked) == 3
    message = str(caught.value)
    assert "3 attempts" in message
    assert "500 line one" in message
    assert message.isprintable()
    assert len(message) < 300
    assert "secret" not in message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusals_are_not_tried_again(status: int) -> None:
    refusal = Served(status=status, raw=b'{"error": {"message": "no such model"}}')
    with serving(lambda *_: refusal) as server, pytest.raises(ModelError, match=f"{status} no such model"):
        Endpoint(server.url, "small", patience=QUICK).reply("", "", 5)
    assert len(server.asked) == 1


def test_redirects_are_not_followed_with_the_key() -> None:
    with serving(first_then()) as other:
        away = Served(status=307, headers={"Location": other.url + "/chat/completions"}, raw=b"")
        with serving(lambda *_: away) as server, pytest.raises(ModelError, match="307"):
            Endpoint(server.url, "small", key="secret", patience=QUICK).reply("", "", 5)
        assert other.asked == []


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(form: str) -> None:
    wait = "0.25" if form == "seconds" else email.utils.formatdate(time.time() + 60, usegmt=True)
    busy = Served(status=429, headers={"Retry-After": wait}, raw=b"")
    with serving(first_then(busy)) as server:
        began = time.monotonic()
        Endpoint(server.url, "small", patience=QUICK).reply("", "", 5)
    # Nothing makes a caller wait for longer than the longest wait and its quarter, a minute least of all.
    assert 0.25 <= time.monotonic() - began < 30


def test_busy_server_holds_back_every_thread() -> None:
    seen: list[float] = []

    def script(asked: Asked, number: int) -> Served:
        seen.append(time.monotonic())
        return Served(status=429, headers={"Retry-After": "0.3"}, raw=b"") if number == 0 else Served("fine")

    with serving(script) as server:
        endpoint = Endpoint(server.url, "small", patience=QUICK)
        first = threading.Thread(target=endpoint.reply, args=("", "", 5))
        first.start()
        deadline = time.monotonic() + 30
        while not (seen and endpoint._next_start > seen[0] + 0.25) and time.monotonic() < deadline:
            time.sleep(0.005)
        endpoint.reply("", "", 5)
        first.join()
    assert seen[1] - seen[0] >= 0.28


def test_requests_keep_to_the_rate() -> None:
    with serving(first_then()) as server:
        endpoint = Endpoint(server.url, "small", patience=Patience(requests_per_minute=1200))
        began = time.monotonic()
        threads = [threading.Thread(target=endpoint.reply, args=("", "", 5)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert time.monotonic() - began >= 5 * 0.05


def test_nobody_there_is_said_in_one_line() -> None:
    with serving(first_then()) as server:
        gone = server.url
    with pytest.raises(ModelError, match="refused"):
        Endpoint(gone, "small", patience=QUICK).reply("", "", 5)


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host/v1", "file:///etc/passwd", "http://", ""])
def test_addresses_that_are_none_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        Endpoint(address, "small")


def test_keys_come_from_the_environment_alone() -> None:
    assert key_from_environment({"OPENAI_API_KEY": "b", "SAESCOPE_API_KEY": "a"}) == "a"
    assert key_from_environment({"OPENAI_API_KEY": "b", "SAESCOPE_API_KEY": ""}) == "b"
    assert key_from_environment({"OPENAI_API_KEY": "b\r\n", "SAESCOPE_API_KEY": " \n"}) == "b"
    assert key_from_environment({}) is None
    with pytest.raises(UsageError, match="not into the endpoint's address"):
        Endpoint("http://user:secret@host/v1", "small")


@pytest.mark.parametrize("key", ["sk-\u043a\u043b\u044e\u0447", "sk-secret\n", "sk-\rsecret", "sk-caf\u00e9"])
def test_key_that_no_header_carries_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UsageError, match="SAESCOPE_API_KEY or OPENAI_API_KEY") as caught:
        Endpoint("http://127.0.0.1:9/v1", "small", key=key)
    assert "sk-" not in str(caught.value)
