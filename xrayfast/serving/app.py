"""The web application, with the page, the JSON endpoint and its OpenAPI description."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from xrayfast.errors import LONGEST_NAME, ConfigError, XrayfastError, truncate
from xrayfast.errors.escapes import escape_hidden
from xrayfast.learning.memory import return_freed_memory
from xrayfast.serving.access import Access, Guard, refuse
from xrayfast.serving.answers import Answer, Health
from xrayfast.serving.classifier import Classifier
from xrayfast.serving.description import describe_api
from xrayfast.serving.page import render_page
from xrayfast.serving.uploads import Uploads
from xrayfast.serving.worker import Busy, Worker

OPTIONS = ("image", "saliency")
"""Options in the query of the JSON endpoint."""


def make_app(classifier: Classifier, access: Access, note: Callable[[str], None]) -> ASGIApp:
    """Return the ASGI application for a classifier; `server.serve` runs it."""
    worker, uploads = Worker(), Uploads()
    html, policy = render_page(classifier)
    description = describe_api(classifier.name, bool(access.password))

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

    async def health(request: Request) -> Response:
        return _json(Health(model=classifier.name, waiting=worker.waiting))

    async def answer(request: Request) -> Answer:
        options = _read_options(request)
        async with uploads.reading(request) as files:
            return await worker.run(partial(classifier.answer, files, **options))

    async def predict(request: Request) -> Response:
        try:
            return _json(await answer(request))
        finally:  # the files are no longer referenced
            return_freed_memory()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        worker.close()

    def unexpected(request: Request, error: Exception) -> Response:
        message = f"Unexpected {type(error).__name__}: {error}. This is a bug in xrayfast."
        note(escape_hidden(message))
        return refuse(500, message)

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/api/predict", predict, methods=["POST"]),
            Route("/api/health", health),
            Route("/api/openapi.json", openapi),
        ],
        exception_handlers={
            HTTPException: _http_problem,
            XrayfastError: _problem,
            Busy: _busy,
            Exception: unexpected,
        },
        lifespan=lifespan,
    )
    return Guard(app, access)


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _read_options(request: Request) -> dict[str, bool]:
    """Return the options of the query, which are false by default."""
    options = dict.fromkeys(OPTIONS, False)
    given = request.query_params.multi_items()
    for name, value in given:
        shown = truncate(escape_hidden(f"{name}={value}"), LONGEST_NAME)
        if name not in OPTIONS or value not in ("true", "false"):
            raise HTTPException(400, f"found {shown}; expected {' or '.join(OPTIONS)}, each true or false.")
        if [other for other, _ in given].count(name) > 1:
            raise HTTPException(400, f"found {name} more than once; expected it once, true or false.")
        options[name] = value == "true"
    return options


def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        asked = truncate(escape_hidden(f"{request.method} {request.url.path}"), LONGEST_NAME)
        error.detail = f"found {asked}; expected POST /api/predict, or GET /, /api/health or /api/openapi.json."
    return refuse(error.status_code, error.detail, dict(error.headers or {}))


def _problem(request: Request, error: Exception) -> Response:
    """Answer 400 for an option that does not fit this model, and 500 if the network fails."""
    return refuse(400 if isinstance(error, ConfigError) else 500, str(error))


def _busy(request: Request, error: Exception) -> Response:
    return refuse(503, "Too many requests are waiting for an answer. Send yours again later.", {"Retry-After": "5"})
