"""Any server that speaks OpenAI's chat completions: patient with servers that are busy, not with ones that refuse.

Requests wait for their turn when a rate is set. Answers of 408, 409, 425, 429 and 5xx, broken connections, time-outs and
answers that are not what was asked for are tried again, after as long as `Retry-After` says or twice as long as before; a
busy server holds back every thread. Redirects are not followed: they would carry the key to another host.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saescope.errors import ModelError, UsageError
from saescope.features.labels.chat import Reply

KEY_VARIABLES = ("SAESCOPE_API_KEY", "OPENAI_API_KEY")
_MOST_BYTES = 2**20
_TRY_AGAIN = frozenset({408, 409, 425, 429})


def key_from_environment(environment: Mapping[str, str] | None = None) -> str | None:
    """The key of SAESCOPE_API_KEY, else of OPENAI_API_KEY; None where neither is set."""
    found = os.environ if environment is None else environment
    # A key that is read from a file often has the file's last line break.
    return next((key for name in KEY_VARIABLES if (key := found.get(name, "").strip())), None)


@dataclass(frozen=True)
class Patience:
    """attempts: at one prompt. timeout: seconds for one answer, from asking to its last byte. first_wait, longest_wait: seconds
    between attempts. requests_per_minute: of all threads together, None for no limit."""

    attempts: int = 6
    timeout: float = 120.0
    first_wait: float = 1.0
    longest_wait: float = 120.0
    requests_per_minute: float | None = None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _AgainError(Exception):
    """Worth another attempt. `wait`: what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None, *, busy: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.busy = wait, busy


class Endpoint:
    """`Endpoint("http://127.0.0.1:8000/v1", "some-model")`. The key goes into the request's header and nowhere else."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key: str | None = None,
        at_once: int = 4,
        patience: Patience | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"the endpoint {base_url!r} is no address; give one such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise UsageError(f"put the key into {KEY_VARIABLES[0]}, not into the endpoint's address")
        if key is not None and not (key.isascii() and key.isprintable()):
            # A header cannot carry it, and the error that says so would show it.
            raise UsageError(
                f"the key in {' or '.join(KEY_VARIABLES)} has characters that no key has; it must be printable ASCII"
            )
        if at_once < 1:
            raise UsageError(f"{at_once} requests at once are too few; give at least 1")
        self.base_url = base_url.rstrip("/")
        self.name = model
        self.at_once = at_once
        self._key = key
        self._patience = patience or Patience()
        self._opener = urllib.request.build_opener(_NoRedirects())
        self._lock = threading.Lock()
        self._next_start = 0.0

    def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
        """The model's answer at temperature 0. ModelError where the server refuses, or has failed at every attempt."""
        body = {
            "model": self.name,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        reason = ""
        wait = self._patience.first_wait
        for attempt in range(self._patience.attempts):
            self._take_turn()
            try:
                return self._ask(json.dumps(body).encode())
            except _AgainError as error:
                reason = str(error)
                asked = min(error.wait if error.wait is not None else wait, self._patience.longest_wait)
                # Threads that were turned away together should not come back together.
                pause = asked * (1 + 0.25 * random.random())
                if error.busy:
                    self._hold_back(pause)
                wait = min(2 * wait, self._patience.longest_wait)
                if attempt + 1 < self._patience.attempts:
                    time.sleep(pause)
        raise ModelError(f"{self.base_url} gave no answer in {self._patience.attempts} attempts; the last: {reason}")

    def _take_turn(self) -> None:
        rate = self._patience.requests_per_minute
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + (60.0 / rate if rate else 0.0)
        time.sleep(max(0.0, start - now))

    def _hold_back(self, seconds: float) -> None:
        with self._lock:
            self._next_start = max(self._next_start, time.monotonic() + seconds)

    def _ask(self, body: bytes) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "saescope"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.base_url}/chat/completions", body, headers)
        deadline = time.monotonic() + self._patience.timeout
        try:
            with self._opener.open(request, timeout=self._patience.timeout) as response:
                return _reply(_read(response, deadline))
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except (TimeoutError, urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
            cause = getattr(error, "reason", error)
            timed_out = isinstance(cause, TimeoutError)
            what = (
                f"no answer in {self._patience.timeout:g} s"
                if timed_out
                else _one_line(str(cause) or type(cause).__name__)
            )
            raise _AgainError(what) from None
        raise AssertionError("every answer is a reply or an error")

    def _refused(self, error: urllib.error.HTTPError) -> None:
        said = _said(error)
        if error.code in _TRY_AGAIN or error.code >= 500:
            busy = error.code in (429, 503)
            raise _AgainError(f"{error.code} {said}", _retry_after(error.headers.get("Retry-After")), busy=busy)
        hint = f"; is {KEY_VARIABLES[0]} right?" if error.code in (401, 403) else ""
        raise ModelError(f"{self.base_url} refused {self.name}: {error.code} {said}{hint}")


def _read(response: Any, deadline: float) -> bytes:
    """The whole answer; a server that trickles has no longer than one that is silent."""
    found = bytearray()
    while chunk := response.read1(65536):
        found += chunk
        if len(found) > _MOST_BYTES:
            raise _AgainError(f"the answer is longer than {_MOST_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(found)


def _reply(data: bytes) -> Reply:
    try:
        answer = json.loads(data)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        counted = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise _AgainError("an answer that is no chat completion") from None
    if not isinstance(text, str):
        raise _AgainError("an answer without text")
    return Reply(text, counted[0], counted[1])


def _said(error: urllib.error.HTTPError) -> str:
    """What a server says of its refusal."""
    try:
        text = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        text = ""
    try:
        found = json.loads(text)
        text = str(found["error"]["message"]) if isinstance(found["error"], dict) else str(found["error"])
    except (ValueError, KeyError, TypeError):
        pass
    return _one_line(text) or _one_line(error.reason or "") or "no reason given"


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 160 else line[:159] + "…"


def _retry_after(value: str | None) -> float | None:
    """Seconds from a header that is a number or a date (RFC 9110, 10.2.3); None where it is neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
