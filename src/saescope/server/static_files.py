"""The page: files of `web/`, with their types and a tag by which a browser knows that it has them already."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

# By ending, and nothing else is served. Not the system's table: that of some machines calls JavaScript plain text.
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}


def web_folder() -> Path:
    return Path(str(files("saescope.server"))) / "web"


def file_answer(request: Request, name: str) -> Response:
    """The file, 304 where the browser has it, 404 where there is none."""
    root = web_folder().resolve()
    try:
        path = (root / name).resolve()
        found = path.is_relative_to(root) and path.is_file() and path.suffix in TYPES
        stamp = path.stat() if found else None
    except (OSError, ValueError):
        stamp = None
    if stamp is None:
        return PlainTextResponse("There is no such file.\n", status_code=404)
    body, tag = _content(path, stamp.st_mtime_ns, stamp.st_size)
    headers = {"etag": tag, "cache-control": "no-cache"}
    if tag in [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=TYPES[path.suffix])


@lru_cache(maxsize=256)
def _content(path: Path, changed: int, size: int) -> tuple[bytes, str]:
    body = path.read_bytes()
    return body, f'"{hashlib.sha256(body).hexdigest()[:24]}"'
