"""Where a server listens: a socket bound before anything slow is done."""

from __future__ import annotations

import errno
import socket
import sys
from dataclasses import dataclass
from urllib.parse import quote

from saescope.errors import UsageError, WorkspaceError

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
PORT = 8321
_TRIES = 64


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
            except UnicodeError:
                raise WorkspaceError(f"cannot listen on {host}: it is no name of a host; give another --host") from None
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
        if sys.platform == "win32":
            # There, to reuse an address is to take it from the server that listens on it.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # So that a server that just ended does not keep its port from the next.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        # Only now does the system refuse a port that another listens on.
        found.listen(128)
    except OSError:
        found.close()
        raise
    return found
