"""Running the application, to an end that waits for nobody long."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from saescope.errors import SaescopeError
from saescope.server.address import Address
from saescope.server.app import create_app
from saescope.server.asking import Served
from saescope.server.workspace import Workspace

# Seconds that open connections have when the server ends.
_GRACE = 2


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
