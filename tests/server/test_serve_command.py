"""`saescope serve` as a process: it answers, refuses in a line, and ends well."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from saescope import cli
from saescope.server import Workspace, serving
from saescope.server.address import PORT, Address

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "SAESCOPE_QUIET": "1", "COLUMNS": "200"}


def serve(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "saescope", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
        start_new_session=True,
    )


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """A server that answers, its address and port; killed by its id if a test leaves it."""
    process = serve(*arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://(\S+):(\d+)/", line)
        assert found, line + (process.stderr.read() if process.poll() is not None and process.stderr else "")
        yield process, found[1], int(found[2])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read()


def test_it_answers_and_ends_well_with_open_connections(workspace: Path) -> None:
    with running(str(workspace), "--port", "0") as (process, host, port):
        assert host == "127.0.0.1"
        status, body = get(port, "/api/workspace")
        assert status == 200
        assert json.loads(body)["coders"][0]["id"] == "random"
        # A tab that keeps its connection.
        idle = socket.create_connection(("127.0.0.1", port))
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5
        idle.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_connection_that_asks_nothing_is_closed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_FIRST_WORD", 0.5)
    address = Address.bound("127.0.0.1", 0, None)
    listening = threading.Event()
    server: list[uvicorn.Server] = []
    made = serving._Server.__init__

    def remembered(self: serving._Server, *arguments: Any) -> None:
        made(self, *arguments)
        server.append(self)

    monkeypatch.setattr(serving._Server, "__init__", remembered)
    thread = threading.Thread(
        target=serving.serve_until_stopped, args=(Workspace(workspace), address), kwargs={"ready": listening.set}
    )
    thread.start()
    try:
        assert listening.wait(10)
        with socket.create_connection(("127.0.0.1", address.port), timeout=4) as slow:
            slow.sendall(b"GET /api/workspace HT")
            assert slow.recv(1) == b""
        asked = http.client.HTTPConnection("127.0.0.1", address.port, timeout=10)
        for _ in range(2):
            # One that has asked is left its time between two requests.
            asked.request("GET", "/api/workspace")
            assert asked.getresponse().read()
            time.sleep(0.8)
    finally:
        server[0].should_exit = True
        thread.join(10)


def test_the_next_free_port_is_taken_by_default(workspace: Path) -> None:
    held = Address.bound("127.0.0.1", None, None)
    try:
        other = Address.bound("127.0.0.1", None, None)
        other.socket.close()
        assert PORT <= held.port < other.port
    finally:
        held.socket.close()


def test_an_address_says_where_a_browser_finds_it() -> None:
    from saescope.server.address import Address

    with socket.socket() as unused:
        assert Address("0.0.0.0", 9, "a b&c", unused).url == "http://127.0.0.1:9/?token=a%20b%26c"
        assert Address("::1", 9, None, unused).url == "http://[::1]:9/"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["NOWHERE"], 1, "saescope index"),
        (["EMPTY"], 1, "saescope index"),
        (["HERE", "--host", "0.0.0.0"], 2, "--token"),
        (["HERE", "--host", "0.0.0.0", "--token", " "], 2, "--token is empty"),
        (["HERE", "--port", "TAKEN"], 1, "cannot listen on 127.0.0.1 port"),
        (["HERE", "--port", "99999"], 2, "65535"),
        (["HERE", "--host", "not.a.host.invalid", "--token", "x"], 1, "cannot listen on"),
        (["HERE", "--host", "a..b", "--token", "x"], 1, "cannot listen on a..b"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    workspace: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = {
            "NOWHERE": str(tmp_path / "nowhere"),
            "EMPTY": str(tmp_path / "empty"),
            "HERE": str(workspace),
            "TAKEN": str(taken.getsockname()[1]),
        }
        monkeypatch.setattr(sys, "argv", ["saescope", "serve", *(words.get(word, word) for word in arguments)])
        if not any(command.name == "serve" for command in cli.app.registered_commands):
            cli._register()
        found = cli._run()
    out, err = capsys.readouterr()
    assert found == code, err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""


@pytest.mark.real
def test_a_stream_under_way_is_ended_with_the_server(tmp_path: Path) -> None:
    """SmolLM2 is writing when the server is told to end."""
    from saescope import KeptRule, LanguageModel, build_index
    from saescope.coders import Slice, SparseCoder, make_architecture, save
    from saescope.features import TextSource
    from saescope.text import Corpus

    lm = LanguageModel.load("smollm2")
    parts = [Slice(point="resid_post.3", width=lm.d_model)]
    coder = SparseCoder(make_architecture("topk", 64, {"k": 4}), parts, parts)
    import torch

    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    coder.metadata.model = lm.identity()
    coder.metadata.name = "small"
    coder.metadata.kept_rule = KeptRule(lm.special_ids, {"resid_post.3": 1e4}).to_dict()
    save(coder, tmp_path / "coder")
    (tmp_path / "a.txt").write_text("The sea and the ships that sail on it. " * 200)
    source = TextSource(coder, lm, Corpus.open(str(tmp_path / "a.txt")), tokens=1024)
    index = build_index(coder, source, tmp_path / "index", coder_path=tmp_path / "coder", lm=lm)
    feature = int(index.count.argmax())
    with running(str(tmp_path), "--port", "0") as (process, _, port):
        assert get(port, f"/api/coders/small/features/{feature}")[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = {"text": "The sea", "feature": feature, "strength": 1.0, "max_new_tokens": 128}
        headers = {"X-Saescope": "1", "Content-Type": "application/json"}
        connection.request("POST", "/api/coders/small/steer", json.dumps(body), headers)
        response = connection.getresponse()
        assert response.status == 200
        first = json.loads(response.readline())
        assert first["event"] == "start"
        # Meanwhile a page of the index comes at once.
        took: list[float] = []

        def page() -> None:
            started = time.monotonic()
            assert get(port, f"/api/coders/small/features/{feature}")[0] == 200
            took.append(time.monotonic() - started)

        asking = threading.Thread(target=page)
        asking.start()
        asking.join(20)
        assert took
        assert took[0] < 2
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert time.monotonic() - started < 5
