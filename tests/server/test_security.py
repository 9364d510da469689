"""Who is let in, what a browser is told, and what files are given out."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient
from starlette.types import Message
from tests.server.conftest import HERE

from saescope.server import security, static_files
from saescope.server.security import BODY_LIMIT

FEATURE = "/api/coders/random/features/0"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8321", 200),
        ("localhost:9", 200),
        ("LOCALHOST", 200),
        ("[::1]:8321", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:8321", 403),
        ("127.0.0.1@evil.example", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_only_its_own_address_is_answered(client: TestClient, host: str, status: int) -> None:
    """A name of elsewhere that resolves to this machine (DNS rebinding) gets nothing."""
    response = client.get("/api/workspace", headers={"Host": host})
    assert response.status_code == status
    assert client.get("/", headers={"Host": host}).status_code in ((200, 404) if status == 200 else (403,))


def test_changes_need_the_header_and_the_same_origin(client: TestClient) -> None:
    def star(**headers: str) -> int:
        return client.put(f"{FEATURE}/star", json={"starred": True}, headers=headers).status_code

    assert star() == 200
    assert star(Origin=HERE) == 200
    assert star(Origin="http://evil.example") == 403
    assert star(Origin="null") == 403
    assert star(Origin="http://[x") == 403
    assert star(Origin="http://127.0.0.1:9999") == 403
    assert star(**{"X-Saescope": ""}) == 403
    with TestClient(client.app, base_url=HERE) as bare:
        assert bare.put(f"{FEATURE}/star", json={"starred": True}).status_code == 403
        assert bare.post("/api/coders/random/prompt", json={"text": "a"}).status_code == 403


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    for path in (
        "/",
        "/api/workspace",
        "/api/nothing",
        "/api/docs",
        "/static/nothing.js",
        FEATURE,
        "/api/coders/x/map",
    ):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "cache-control" in headers
    assert client.get("/api/workspace", headers={"Host": "evil"}).headers["x-content-type-options"] == "nosniff"


def test_a_failure_nobody_thought_of_is_one_line_with_the_policy(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise ZeroDivisionError("secret of the inside")

    monkeypatch.setattr("saescope.server.routes.feature._histogram", fails)
    response = client.get(FEATURE)
    assert response.status_code == 500
    assert "ZeroDivisionError" in response.json()["detail"]
    assert "secret" not in response.text
    assert "content-security-policy" in response.headers


@pytest.fixture
def guarded(workspace: Path, client_of: Callable[..., TestClient]) -> TestClient:
    return client_of(workspace, token="open, sesame; ü")


def test_nothing_without_the_token(guarded: TestClient) -> None:
    with guarded as client:
        for path in ("/", "/api/workspace", "/api/openapi.json", "/static/app.js", "/?token=wrong", "/?token="):
            response = client.get(path, follow_redirects=False)
            assert response.status_code == 401
            assert "detail" in response.json()
        assert client.put(f"{FEATURE}/star", json={"starred": True}).status_code == 401
        assert client.get("/api/workspace", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/api/workspace", headers={"Cookie": "saescope=1; a=b; ;;="}).status_code == 401
        bearer = {"Authorization": "Bearer open, sesame; ü".encode()}
        assert client.get("/api/workspace", headers=bearer).status_code in (200, 401)


def test_the_token_in_the_address_becomes_a_cookie(guarded: TestClient) -> None:
    with guarded as client:
        response = client.get("/", params={"token": "open, sesame; ü", "a": "1"}, follow_redirects=False)
        assert response.status_code == 303
        assert response.headers["location"] == "/?a=1"
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie, "or the printed link fails where it is clicked in a page of elsewhere"
        assert "sesame" not in cookie
        assert client.get("/api/workspace").status_code == 200
        assert client.put(f"{FEATURE}/star", json={"starred": True}).status_code == 200
        # Opened once more, the token leaves the address again.
        again = client.get("/", params={"token": "open, sesame; ü"}, follow_redirects=False)
        assert (again.status_code, again.headers["location"]) == (303, "/")


@pytest.mark.parametrize("other", ['prefs={"a":1}', "x=a b", "é=1", "a[0]=1", "flag", 't="un'])
def test_another_servers_odd_cookie_locks_nobody_out(guarded: TestClient, other: str) -> None:
    with guarded as client:
        cookie = client.get("/", params={"token": "open, sesame; ü"}, follow_redirects=False).headers["set-cookie"]
        client.cookies.clear()
        sent = f"{other}; {cookie.partition(';')[0]}".encode("latin-1")
        assert client.get("/api/lists", headers={"Cookie": sent}).status_code == 200  # type: ignore[dict-item]


def test_the_tokens_redirect_stays_here(guarded: TestClient) -> None:
    with guarded as client:
        for path in ("//evil.example/x", "/\\evil.example", "/%0d%0aSet-Cookie:%20a=b"):
            response = client.get(HERE + path, params={"token": "open, sesame; ü"}, follow_redirects=False)
            client.cookies.clear()
            location = response.headers["location"]
            assert location.startswith("/")
            assert not location.startswith(("//", "/\\"))
            assert "\n" not in location


def test_bearer_tokens(workspace: Path, client_of: Callable[..., TestClient]) -> None:
    with client_of(workspace, token="abc") as client:
        assert client.get("/api/workspace", headers={"Authorization": "Bearer abc"}).status_code == 200
        assert client.get("/api/workspace", headers={"Authorization": "bearer abc"}).status_code == 200
        assert client.get("/api/workspace", headers={"Authorization": "Basic abc"}).status_code == 401


def test_a_body_is_limited_whatever_length_it_announces(client: TestClient) -> None:
    def chunks() -> object:
        for _ in range(100):
            yield b"x" * 1024

    response = client.put(f"{FEATURE}/note", content=chunks())  # type: ignore[arg-type]
    assert response.status_code == 413
    assert f"{BODY_LIMIT // 1024} KiB" in response.json()["detail"]
    assert client.put(f"{FEATURE}/note", content=b"{}", headers={"content-length": "-5"}).status_code == 400


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_BODY_PATIENCE", 0.05)
    sent: list[dict[str, Any]] = []

    async def never() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    async def app(*arguments: object) -> None:
        raise AssertionError("nothing was asked")

    headers = [(b"host", b"127.0.0.1"), (b"x-saescope", b"1")]
    scope = {"type": "http", "method": "PUT", "path": "/", "query_string": b"", "headers": headers}
    anyio.run(security.Guard(app), scope, never, send)
    assert sent[0]["status"] == 408


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "web"
    (folder / "views").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "views" / "a.js").write_text("export const a = 1;")
    (folder / "secret.py").write_text("x = 1")
    (tmp_path / "outside.js").write_text("outside")
    (folder / "link.js").symlink_to(tmp_path / "outside.js")
    monkeypatch.setattr(static_files, "web_folder", lambda: folder)
    return folder


def test_files_have_types_and_tags(client: TestClient, web: Path) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    script = client.get("/static/views/a.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    tag = script.headers["etag"]
    again = client.get("/static/views/a.js", headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/views/a.js", headers={"If-None-Match": '"other"'}).content == script.content
    (web / "views" / "a.js").write_text("export const a = 22;")
    changed = client.get("/static/views/a.js", headers={"If-None-Match": tag})
    assert changed.text == "export const a = 22;"


@pytest.mark.parametrize(
    "path",
    [
        "../outside.js",
        "..%2foutside.js",
        "%2e%2e/outside.js",
        "link.js",
        "secret.py",
        "views",
        "",
        "%00.js",
        "/etc/passwd",
        "views/../../outside.js",
        "a" * 5000 + ".js",
    ],
)
def test_nothing_else_is_given_out(client: TestClient, web: Path, path: str) -> None:
    response = client.get(f"/static/{path}")
    assert response.status_code == 404
    assert "outside" not in response.text
