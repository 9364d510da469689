"""A browser to visit an explorer with: the system's Chromium, kept from every address but this machine's."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app on a free port of 127.0.0.1, until the block ends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser, until the block ends; without one the test is skipped, in CI it fails."""
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        reason = "no Chromium on this machine (looked for " + ", ".join(CHROMIUM) + ")"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """One person's browser: its pages share storage; what went wrong is kept until `forgive` or the end of the test."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.problems: list[str] = []
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(8000)
        self.context.route(lambda url: not url.startswith(("http://127.0.0.1:", "data:")), self._refuse)

    def _refuse(self, route: Any) -> None:
        self.problems.append(f"request beyond this machine: {route.request.url}")
        route.abort()

    def page(self) -> Any:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("console", lambda line: self.problems.append(f"console: {line.text}") if line.type == "error" else None)
        return page

    def forgive(self, part: str) -> None:
        """Drop the problems that the test provoked; there must be one."""
        kept = [problem for problem in self.problems if part not in problem]
        assert len(kept) < len(self.problems), f"nothing about {part!r} went wrong"
        self.problems[:] = kept
