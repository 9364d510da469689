"""The application: every route, the page, and one line for everything that goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from saescope import __version__
from saescope.errors import (
    CoderError,
    ModelError,
    RevisionConflict,
    SaescopeError,
    TextError,
    UsageError,
)
from saescope.features.labels import contrastive_labels, write_labels
from saescope.lm import LanguageModel
from saescope.server.answers import Problem
from saescope.server.asking import NotFound, Served
from saescope.server.jobs import Jobs, Labellers, Tell
from saescope.server.model_worker import Busy, ClientGone, ModelWorker
from saescope.server.people import ReadOnly, StillWriting
from saescope.server.plain_text import one_line
from saescope.server.routes import document, feature, features, people, prompt, steer, workspace
from saescope.server.security import HEADERS, Guard
from saescope.server.served_coder import ServedCoder
from saescope.server.static_files import file_answer
from saescope.server.workspace import Workspace

# Which answer says what went wrong; the first that fits. What is not here is the server's own trouble.
_STATUS: tuple[tuple[type[SaescopeError], int], ...] = (
    (NotFound, 404),
    (RevisionConflict, 409),
    (Busy, 503),
    (StillWriting, 503),
    (ReadOnly, 403),
    (UsageError, 422),
    (TextError, 422),
    (CoderError, 409),
    (ModelError, 409),
)


def create_app(
    folder: str | Path | Workspace,
    *,
    token: str | None = None,
    model: str | None = None,
    host: str = "127.0.0.1",
    lm: LanguageModel | None = None,
    worker: ModelWorker | None = None,
    labellers: Labellers | None = None,
) -> FastAPI:
    """The explorer of a workspace, ready for an ASGI server.

    model: what is loaded when a page first needs it, and tried with every coder; by default the model of the first index.
    lm: one that is in memory. token: asked of everyone, where given.

    WorkspaceError or FeatureIndexError when there is nothing to serve.
    """
    opened = folder if isinstance(folder, Workspace) else Workspace(folder)
    if worker is None:
        spec = model or next((one.model_spec() for one in opened.coders.values() if one.model_spec()), "")
        worker = ModelWorker(lm.spec, load=lambda: lm) if lm is not None else ModelWorker(spec, named=model is not None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        worker.stop()
        opened.close()

    app = FastAPI(
        title="saescope",
        version=__version__,
        description="What a model's features fire on, and what they do. Everything here is on this machine.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
        responses={"4XX": {"model": Problem}},
    )
    app.state.served = Served(opened, worker, Jobs(opened, default_labellers() if labellers is None else labellers))
    for part in (workspace, features, feature, document, people, prompt, steer):
        app.include_router(part.router, prefix="/api")
    _add_pages(app)
    _add_errors(app)
    app.add_middleware(Guard, host=host, token=token)
    return app


def default_labellers() -> Labellers:
    """Labels from the index alone; an explainer, which costs money, is for the command line."""
    return {"contrastive": _contrastive}


def _contrastive(coder: ServedCoder, tell: Tell) -> None:
    write_labels(coder.index, contrastive_labels(coder.index, progress=tell))


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def page(request: Request) -> Response:
        return file_answer(request, "index.html")

    @app.get("/static/{name:path}", include_in_schema=False)
    def static(request: Request, name: str) -> Response:
        return file_answer(request, name)

    @app.get("/api/docs", include_in_schema=False)
    def docs() -> Response:
        """A list of the routes: the usual page would be fetched from elsewhere."""
        described = app.openapi()
        rows = [
            f"<dt><code>{escape(method.upper())} {escape(path)}</code></dt>"
            f"<dd>{escape(one_line(str(operation.get('description', ''))))}</dd>"
            for path, operations in described["paths"].items()
            for method, operation in operations.items()
        ]
        return HTMLResponse(
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>saescope API</title></head><body>'
            f"<h1>saescope API</h1><p>Types of everything sent and taken: "
            f'<a href="openapi.json">openapi.json</a> (OpenAPI {escape(str(described["openapi"]))}).</p>'
            f"<dl>{''.join(rows)}</dl></body></html>"
        )

    @app.api_route("/api/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False)
    def nothing(rest: str) -> Response:
        return _problem(404, f"there is no /api/{rest[:100]}; see /api/docs")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(SaescopeError)
    async def ours(request: Request, error: SaescopeError) -> Response:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return _problem(status, str(error), {"retry-after": "2"} if status == 503 else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _problem(422, f"{where or 'the body'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, str(error.detail))

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        # Nobody reads it; the number is the usual one for this in logs.
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        # Who runs the server sees the trace in the terminal; a person at the page sees one line.
        return _problem(500, f"the server failed at this ({type(error).__name__}); its terminal says where", HEADERS)


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"detail": one_line(detail)}, status, headers)
