"""Who may ask, and what a browser may do with the answers: one layer around the whole application.

The server is one person's, on their own machine, and everything in it is text that others wrote. So: a page from elsewhere
must not reach it (Host and Origin checks, a header that forms cannot send), text must never run (content-security policy),
and where a token was set nobody gets anything without it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saescope.server.address import LOCAL

BODY_LIMIT = 64 * 1024
ANY = frozenset({"0.0.0.0", "::"})
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_NO_TOKEN = "a token is needed: open the address that saescope serve printed, or send Authorization: Bearer TOKEN"
_TOO_LONG = f"the request's body is longer than {BODY_LIMIT // 1024} KiB; send less"
# Seconds that a body may take to arrive.
_BODY_PATIENCE = 30.0
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """host: what the server is bound to; token: asked of everyone, where given."""

    def __init__(self, app: ASGIApp, *, host: str = "127.0.0.1", token: str | None = None) -> None:
        self._app = app
        self._hosts = None if host in ANY else LOCAL | {host.strip("[]").lower()}
        self._token = token
        self.cookie = cookie_name(token) if token else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        if self._token is not None:
            if (address := self._address_without(scope)) is not None:
                # Lax: the printed address may be clicked in a page of elsewhere. What changes anything needs its own Origin.
                cookie = f"{self.cookie}={_cookie_value(self._token)}; Path=/; HttpOnly; SameSite=Lax"
                await _answer(send, 303, "", {"location": address, "set-cookie": cookie})
                return
            if not self._has_token(headers):
                await _answer(send, 401, _NO_TOKEN, {"www-authenticate": "Bearer"})
                return
        if scope["method"] not in _SAFE:
            try:
                with anyio.fail_after(_BODY_PATIENCE):
                    body = await _body(receive)
            except TimeoutError:
                await _answer(send, 408, "the request's body did not come; send it again")
                return
            if body is None:
                await _answer(send, 413, _TOO_LONG)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else ""
        if not name or (self._hosts is not None and name not in self._hosts):
            return 403, "this address is not the server's own; open it as http://127.0.0.1 with its port"
        if scope["method"] not in _SAFE:
            origin = headers.get("origin")
            if origin is not None and _authority(origin) != hosts[0].lower():
                return 403, "a page of another origin may not change anything here"
            if headers.get("x-saescope") != "1":
                return 403, "a request that changes something needs the header X-Saescope: 1"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return 400, "Content-Length is not a number"
        if int(length) > BODY_LIMIT:
            return 413, _TOO_LONG
        return None

    def _has_token(self, headers: Headers) -> bool:
        kind, _, sent = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(sent.strip()):
            return True
        # Python's own reader drops all cookies where one, perhaps another server's on this host, is odd.
        own = cookie_parser(headers.get("cookie", "")).get(self.cookie)
        return own is not None and self._is_token(own, cookie=True)

    def _is_token(self, sent: str, *, cookie: bool = False) -> bool:
        assert self._token is not None
        expected = _cookie_value(self._token) if cookie else self._token
        return hmac.compare_digest(sent.encode(errors="replace"), expected.encode(errors="replace"))

    def _address_without(self, scope: Scope) -> str | None:
        """An address that has the token, without it: the token becomes a cookie. None for any other."""
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in pairs if key == "token"]
        if scope["method"] != "GET" or not given or not self._is_token(given[0]):
            return None
        rest = urlencode([(key, value) for key, value in pairs if key != "token"])
        # Only a path of this server: what begins with two slashes would be another.
        path = "/" + quote(str(scope["path"]).lstrip("/\\"))
        return path + (f"?{rest}" if rest else "")


def cookie_name(token: str) -> str:
    """Of its own for each token: cookies don't know ports, and two servers may run on one machine."""
    return f"saescope-{hashlib.sha256(token.encode(errors='replace')).hexdigest()[:8]}"


def _cookie_value(token: str) -> str:
    # Any text can be a token, few characters can be in a cookie.
    return hashlib.sha256(b"saescope cookie " + token.encode(errors="replace")).hexdigest()


def _host_name(host: str) -> str:
    """The name in a Host header, without the port; empty for what is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _authority(origin: str) -> str:
    """Host and port of an Origin header; empty for what has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None where it is too long, whatever length was announced."""
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_LIMIT:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body first, then what comes after it."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            if "cache-control" not in headers:
                headers["cache-control"] = "no-store"
        await send(message)

    return sending


async def _answer(send: Send, status: int, detail: str, more: dict[str, str] | None = None) -> None:
    body = json.dumps({"detail": detail}).encode() if detail else b""
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        **HEADERS,
        **(more or {}),
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
