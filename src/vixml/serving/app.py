"""The API: what each path answers."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from vixml import __version__
from vixml.config.registry import Fetch
from vixml.errors import VixmlError
from vixml.images.http import Getter
from vixml.images.workers import Workers
from vixml.serving import schemas
from vixml.serving.batches import Asked, Batches, Found
from vixml.serving.intake import FORM, Intake, content_type, read_form, read_json
from vixml.serving.limits import Limits, Refusal, error_body
from vixml.serving.metrics import TYPE, Metrics
from vixml.tagging.tagger import Tag, Tagger, Voter

# Files of the pages: path, file, type. They are the same for everyone, so they need no token.
PAGES = (
    ("/", "index.html", "text/html; charset=utf-8"),
    ("/docs", "docs.html", "text/html; charset=utf-8"),
    ("/style.css", "style.css", "text/css; charset=utf-8"),
    ("/script.js", "script.js", "text/javascript; charset=utf-8"),
    ("/docs.js", "docs.js", "text/javascript; charset=utf-8"),
)
OPEN_PATHS = {"/healthz", "/openapi.json", *(path for path, _, _ in PAGES)}
_REFUSED: dict[int | str, dict[str, Any]] = {status: {"model": schemas.ErrorOut, "description": about} for status, about in {
    400: "Not readable.", 401: "No token, or another one.", 404: "Not there.", 408: "The body took too long.",
    413: "Too large, or too many.", 415: "A body of another type or charset, or compressed.", 421: "Another name of this server.",
    422: "Readable, and not what this path expects.", 429: "Too many requests wait.", 500: "A fault of the server.",
    503: "No answer in time, or the server is too busy.",
}.items()}  # fmt: skip
_EVERYWHERE = (401, 408, 413, 415, 421, 500, 503)  # of the guard, before or around any path
_OF_ITEMS = (400, 422, 429)


@dataclass
class ServerState:
    """State shared by the paths."""

    tagger: Tagger
    batches: Batches
    intake: Intake
    limits: Limits
    metrics: Metrics
    urls: bool
    connections: Callable[[], int]

    @property
    def model(self) -> str:
        """Return the model's id."""
        header = self.tagger.folder.header
        return f"{header['dataset']}/{header['run']}"

    async def find(
        self, items: Sequence[schemas.Item], asked: Asked, form_files: Sequence[bytes] = ()
    ) -> tuple[Found, list[list[str]]]:
        """Return what the model finds for items, and the notes about each."""
        with self.batches.admitted(self.intake.check(items, form_files)):
            reads, notes = await self.intake.read(items, form_files)
            try:
                return await self.batches.answer(reads, asked), notes
            except VixmlError as error:
                raise Refusal.of(error, "labels") from None


def make_app(
    tagger: Tagger,
    limits: Limits,
    metrics: Metrics,
    *,
    allow_urls: bool = False,
    connections: Callable[[], int] = lambda: 0,
    processes: int = 2,
) -> FastAPI:
    """Return the application; its processes and its thread start with the server and end with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            batches = stack.enter_context(Batches(tagger, limits, metrics))
            workers = getter = None
            if tagger.reads_images:
                workers = stack.enter_context(Workers(processes, tagger.image_size, seconds=limits.image_seconds))
                for _ in range(processes):  # the first image need not wait for a process to start
                    workers.threads.submit(workers.attempt, "no image")
                if allow_urls:
                    settings = {"timeout_seconds": limits.seconds / 4, "max_bytes": limits.body}
                    fetch = Fetch(**settings, user_agent=f"vixml/{__version__}")
                    getter = await stack.enter_async_context(Getter(fetch))
            intake = Intake(tagger, workers, getter, limits, metrics)
            app.state.served = ServerState(tagger, batches, intake, limits, metrics, getter is not None, connections)
            yield

    app = FastAPI(
        title=f"vixml: {tagger.folder.dataset.title}",
        version=__version__,
        description="Tags items with the labels of one model. Errors have the form of OpenAI's API. docs/serve.md has limits and "
        "examples.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=_refused(*_EVERYWHERE),
    )
    _register_errors(app)
    _register_api(app)
    _register_pages(app)
    return app


def _refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _REFUSED[status] for status in statuses}


def _register_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        if isinstance(error, Refusal):
            return error.answer()
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        message = f"{request.method} {request.url.path}: {error.detail}; the paths are on /docs"[:300]
        return JSONResponse(error_body(error.status_code, code, message), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> Response:
        return JSONResponse(error_body(500, "internal_error", "a fault of the server; its log has the reason"), 500)


def _register_api(app: FastAPI) -> None:
    parts: dict[str, Any] = {}  # schemas that those of bodies refer to

    def served(request: Request) -> ServerState:
        return request.app.state.served

    def body(**kinds: type[BaseModel]) -> dict[str, Any]:
        """Return the OpenAPI description of a body that is read by hand, by its type."""
        content = {}
        for kind, model in kinds.items():
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            parts.update(schema.pop("$defs", {}))
            content[{"json": "application/json", "form": FORM}[kind]] = {"schema": schema}
        return {"requestBody": {"required": True, "content": content}}

    @app.get(
        "/healthz",
        response_model=schemas.Health,
        responses={503: {"model": schemas.Health | schemas.ErrorOut, "description": "It cannot."}},
        tags=["server"],
    )
    async def healthz(request: Request) -> Response:
        """Return whether the server can tag; 503 if its model's thread has ended."""
        alive = served(request).batches.alive
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}, tags=["server"])
    async def metrics(request: Request) -> Response:
        """Return counters for Prometheus."""
        state = served(request)
        return Response(state.metrics.text(state.batches.waiting, state.connections()), media_type=TYPE)

    @app.get("/v1/models", response_model=schemas.ModelList, tags=["model"])
    async def models(request: Request) -> Response:
        """Return the model: its labels, what it reads, and the limits of requests."""
        return JSONResponse({"object": "list", "data": [_describe(served(request))]})

    @app.post(
        "/v1/tags",
        responses=_refused(*_OF_ITEMS) | {200: {"model": schemas.TagResponse}},
        openapi_extra=body(json=schemas.TagRequest, form=schemas.TagForm),
        tags=["model"],
    )
    async def tags(request: Request) -> Response:
        """Return the best labels of items: JSON with one or several items, or a form with one item and its images as files."""
        state = served(request)
        if content_type(request) == FORM:
            wanted, form_files = await read_form(request, state.limits)
        else:
            wanted, form_files = await read_json(request, schemas.TagRequest), []
        found, notes = await state.find(wanted.items, _asked(wanted, state.limits), form_files)
        items = [
            _tagged(state.tagger, tags, found.names, added) | {"notes": about}
            for tags, added, about in zip(found.tags, found.added, notes, strict=True)
        ]
        return JSONResponse({"model": state.model, "items": items})

    @app.post(
        "/v1/embeddings",
        responses=_refused(404, *_OF_ITEMS) | {200: {"model": schemas.EmbeddingResponse}},
        openapi_extra=body(json=schemas.EmbeddingRequest),
        tags=["model"],
    )
    async def embeddings(request: Request) -> Response:
        """Return the vectors of texts (and images), as OpenAI's API does."""
        state = served(request)
        wanted, dim = await read_json(request, schemas.EmbeddingRequest), state.tagger.folder.header["dim"]
        if wanted.model not in (None, state.model):
            message = f"this server has no model {wanted.model[:100]!r}; it has {state.model!r}"
            raise Refusal(404, "model_not_found", message, "model")
        if wanted.dimensions not in (None, dim):
            raise Refusal(422, "invalid_request", f"the vectors of this model have {dim} dimensions", "dimensions")
        try:
            found, notes = await state.find(wanted.input, Asked())
        except Refusal as error:
            error.param = error.param and error.param.replace("items", "input", 1)
            raise
        for index, about in enumerate(notes):  # there is no place for them in the answer
            if about:
                raise Refusal(422, "invalid_item", about[0], f"input[{index}].images")
        rows = found.vectors.astype("<f4")
        as_text = wanted.encoding_format == "base64"
        values = [base64.b64encode(row.tobytes()).decode() if as_text else row.tolist() for row in rows]
        data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(values)]
        tokens = sum(found.tokens)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": state.model, "data": data, "usage": usage})

    @app.get(
        "/v1/neighbours/{row}/image",
        response_class=Response,
        responses=_refused(404) | {200: {"content": {"image/jpeg": {}}}},
        tags=["model"],
    )
    async def thumbnail(request: Request, row: str) -> Response:
        """Return the thumbnail of a training item (`image` of a voter)."""
        known = row.isascii() and row.isdecimal() and len(row) < 12
        found = served(request).tagger.thumbnail(int(row)) if known else None
        if found is None:
            raise Refusal(404, "not_found", "no training item of this model has an image of this number")
        return Response(found, media_type="image/jpeg", headers={"Cache-Control": "private, no-cache"})

    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document["components"]["schemas"] = parts | document["components"]["schemas"]
        for path, methods in document["paths"].items():
            for about in methods.values():
                if path in OPEN_PATHS:
                    about["responses"].pop("401", None)
                if "requestBody" not in about:  # what FastAPI adds for a parameter of the path: any is read, or 404
                    about["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi


def _register_pages(app: FastAPI) -> None:
    folder = files("vixml.serving") / "page"
    contents = {path: ((folder / name).read_bytes(), kind) for path, name, kind in PAGES}

    async def page(request: Request) -> Response:
        content, kind = contents[request.url.path]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    for path in contents:
        app.get(path, include_in_schema=False)(page)


def _describe(state: ServerState) -> dict[str, Any]:
    tagger, limits = state.tagger, state.limits
    return {
        "id": state.model,
        "object": "model",
        "created": 0,
        "owned_by": "vixml",
        "title": tagger.folder.dataset.title,
        "n_labels": tagger.n_known,
        "dim": tagger.folder.header["dim"],
        "reads_images": tagger.reads_images,
        "images_per_item": tagger.folder.run.images.per_item if tagger.reads_images else 0,
        "text_fields": list(tagger.folder.dataset.text_fields),
        "votes": tagger.votes,
        "adds_labels": tagger.adds_labels and limits.labels > 0,
        "max_items": limits.items,
        "max_images": limits.images,
        "max_labels": limits.labels,
        "max_text": limits.text,
        "max_body": limits.body,
        "urls": state.urls,
    }


def _asked(wanted: schemas.TagOptions, limits: Limits) -> Asked:
    if len(wanted.labels) > limits.labels:
        message = f"{len(wanted.labels)} labels; at most {limits.labels} per request"
        raise Refusal(413, "too_many_labels", message, "labels")
    return Asked(wanted.k, wanted.voters, tuple(wanted.labels), wanted.labels_offset if wanted.labels else 0.0)


def _tagged(
    tagger: Tagger, tags: Sequence[Tag], names: Sequence[str], added: Mapping[int, tuple[int, float]]
) -> dict[str, Any]:
    """Return one item of the answer; names, added: as in :class:`vixml.serving.batches.Found`."""

    def image(voter: Voter) -> str | None:
        return None if tagger.thumbnail(voter.row) is None else f"/v1/neighbours/{voter.row}/image"

    found = [
        {
            "label": tag.label,
            "id": tag.id,
            "score": tag.score,
            "probability": tag.probability,
            "added": tag.id in names,
            "voters": [
                {"id": one.id, "text": one.text, "similarity": one.similarity, "image": image(one)}
                for one in tag.voters
            ],
        }
        for tag in tags
    ]
    ranks = [added.get(row, (None, None)) for row in range(len(names))]
    new = [{"label": name, "rank": rank, "score": score} for name, (rank, score) in zip(names, ranks, strict=True)]
    return {"tags": found, "added": new}
