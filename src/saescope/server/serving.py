"""Running the application: an address that is free, and an end that waits for nobody long."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from urllib.parse import quote

import uvicorn

from saescope.errors import UsageError, WorkspaceError
from saescope.server.app import create_app
from saescope.server.asking import Served
from saescope.server.security import LOCAL
from saescope.server.workspace import Workspace

PORT = 8321
_TRIES = 64
# Seconds that open connections have when the server ends.
_GRACE = 2


@dataclass(frozen=True)
class Address:
    """A socket that is bound, and what a browser calls it."""

    host: str
    port: int
    token: str | None
    socket: socket.socket

    @staticmethod
    def bound(host: str, port: int | None, token: str | None) -> Address:
        """`port` None is 8321 or the next free one; 0 any. UsageError for an address that others can reach without a token,
        WorkspaceError where nothing can be bound."""
        name = host.strip("[]").lower()
        if token is not None and not token.strip():
            raise UsageError("--token is empty; give some text, or leave it out")
        if name not in LOCAL and token is None:
            raise UsageError(f"--host {host} can be reached by others; give --token TEXT too, or leave --host out")
        wanted = [port] if port is not None else list(range(PORT, PORT + _TRIES))
        for number in wanted:
            try:
                found = _listening(name, number)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES) and number != wanted[-1]:
                    continue
                hint = "leave --port out for the next free one" if port is not None else "name one with --port"
                raise WorkspaceError(
                    f"cannot listen on {host} port {number}: {error.strerror or error}; {hint}"
                ) from None
            return Address(name, int(found.getsockname()[1]), token, found)
        raise AssertionError("there is always a last port")

    @property
    def url(self) -> str:
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            self.host, f"[{self.host}]" if ":" in self.host else self.host
        )
        return f"http://{shown}:{self.port}/" + (f"?token={quote(self.token, safe='')}" if self.token else "")


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        # So that a server that just ended does not keep its port from the next.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        # Only now does the system refuse a port that another listens on.
        found.listen(128)
    except OSError:
        found.close()
        raise
    return found


def serve_until_stopped(
    workspace: Workspace, address: Address, *, model: str | None = None, ready: Callable[[], None]
) -> None:
    """Serve until the process is told to end (Ctrl-C or SIGTERM): work under way ends at its next step, then connections are
    closed. A second signal ends it at once. `ready` is called once the address answers."""
    app = create_app(workspace, token=address.token, model=model, host=address.host)
    served: Served = app.state.served
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE,
        server_header=False,
        proxy_headers=False,
    )
    server = _Server(config, served.worker.stop, ready)
    with address.socket:
        server.run(sockets=[address.socket])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ending: Callable[[], None], ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending, self._ready = ending, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._ending()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that ended the server well is not raised once more: the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):
                before[number] = signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
