"""A chat server on 127.0.0.1 that a test scripts: well behaved, or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request as the server got it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][1]["content"])


@dataclass
class Served:
    """status, headers and body of a response; `trickle`: seconds between its bytes; `silence`: wait until the server ends."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    trickle: float = 0.0
    silence: bool = False


Script = Callable[[Asked, int], Served]


@dataclass
class Server:
    url: str
    asked: list[Asked]


@contextmanager
def serving(script: Script) -> Iterator[Server]:
    """Calls `script(request, number)` for every request, from as many threads as ask."""
    asked: list[Asked] = []
    over = threading.Event()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = Asked(self.path, dict(self.headers), body)
            with lock:
                number = len(asked)
                asked.append(request)
            served = script(request, number)
            if served.silence:
                over.wait()
                return
            data = served.raw
            if data is None:
                message = {"choices": [{"message": {"role": "assistant", "content": served.text}}]}
                data = json.dumps(message | {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()
            self.send_response(served.status)
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            try:
                for start in range(0, len(data), 1 if served.trickle else len(data) or 1):
                    self.wfile.write(data[start : start + (1 if served.trickle else len(data))])
                    if served.trickle and over.wait(served.trickle):
                        return
            except OSError:
                pass  # the client has had enough

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}/v1", asked)
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
