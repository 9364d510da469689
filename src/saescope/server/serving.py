"""Running the application, to an end that waits for nobody long."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn

from saescope.errors import SaescopeError
from saescope.server.address import Address
from saescope.server.app import create_app
from saescope.server.asking import Served
from saescope.server.workspace import Workspace

# Seconds that open connections have when the server ends.
_GRACE = 2
# Seconds that a new connection has until its first request is there.
_FIRST_WORD = 10.0
# Connections above which it has none: more than browsers have together, fewer than a process may have files open.
_CROWD = 512


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
        # As many times a second asyncio complains in the terminal when there is no file handle left.
        backlog=128,
    )
    server = _Server(config, served.worker.stop, ready)
    threading.Thread(target=_warm, args=(workspace,), name="saescope-warm", daemon=True).start()
    with address.socket:
        server.run(sockets=[address.socket])


def _warm(workspace: Workspace) -> None:
    """Read what every first page needs (documents, tokenizer, table), so that nobody waits for it."""
    for coder in list(workspace.coders.values()):
        # What is wrong with a file is said to who asks for it.
        with suppress(SaescopeError, OSError):
            _ = (coder.index.documents, coder.index.token_text, coder.table, coder.first_feature)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ending: Callable[[], None], ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending, self._ready = ending, ready
        self._silent: dict[Any, float] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        self._close_silent()
        return await super().on_tick(counter)

    def _close_silent(self) -> None:
        """Close connections that have not finished to ask anything: enough of them would leave no file handle for others."""
        now = time.monotonic()
        asked_nothing = {one for one in self.server_state.connections if getattr(one, "cycle", None) is None}
        self._silent = {one: self._silent.get(one, now) for one in asked_nothing}
        patience = _FIRST_WORD if len(self.server_state.connections) <= _CROWD else 0.0
        for one, since in self._silent.items():
            if now - since > patience:
                one.transport.close()

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
