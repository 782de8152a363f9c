"""A trained classifier behind an address: FastAPI on uvicorn, with a page to try it on."""

import asyncio
import base64
import gc
import hashlib
import hmac
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lit_bert.callbacks.run_record import package_version
from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.inference.batcher import Batcher
from lit_bert.inference.card import read_card_metrics
from lit_bert.inference.export import load_metrics, resolve_checkpoint
from lit_bert.inference.schema import CAN_EXPLAIN, MAX_CHARACTERS, MAX_TEXTS, PredictRequest, PredictResponse, parse
from lit_bert.run.openmp import LoadMonitor, limit_threads

MAX_BODY = 1 << 20
"""Maximum size of a request's body, in bytes."""

MAX_DISCARDED = 32 << 20
"""Number of bytes of a refused body that are read and dropped."""

BODY_SECONDS = 30.0
"""How long a client may take to send its body."""

REQUESTS = Counter("lit_bert_requests", "Requests to /predict, by the status of their answer", ["status"])
SECONDS = Histogram("lit_bert_request_seconds", "Seconds from the head of a request to /predict to its answer")


class Measure:
    """ASGI middleware that counts and times requests to /predict."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                REQUESTS.labels(message["status"]).inc()
            await send(message)

        if scope["type"] == "http" and scope["path"] == "/predict":
            with SECONDS.time():
                await self.app(scope, receive, count_and_send)
        else:
            await self.app(scope, receive, send)


def create_app(
    batcher: Batcher, info: dict[str, Any], token: str | None, on_failure: Callable[[], None] = lambda: None
) -> FastAPI:
    """Return the application.

    Args:
        batcher: What answers the requests; the application runs it.
        info: What `GET /info` answers.
        token: What all requests but those for the page and the health have to bring; None asks for none.
        on_failure: Called when the model has stopped for good.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        predicting = asyncio.create_task(batcher.run())
        predicting.add_done_callback(lambda _: on_failure() if batcher.failure else None)
        yield
        predicting.cancel()

    async def check_token(request: Request) -> None:
        given = request.headers.get("authorization", "")
        kind, _, credentials = given.partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(credentials.strip().encode(), str(token).encode()):
            return
        with suppress(HTTPException):
            await read_body(request)
        wrong = "the token is wrong" if given else "a token is needed"
        reason = f"{wrong}: send the header Authorization: Bearer <token>"
        raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})

    # FastAPI's own page of documentation would load scripts from another server.
    app = FastAPI(title="lit_bert", version=info["version"], lifespan=lifespan, openapi_url=None)
    guarded = APIRouter(dependencies=[Depends(check_token)] if token else [])
    app.add_middleware(Measure)
    page, page_headers = read_page()

    @app.get("/", include_in_schema=False)
    async def get_page() -> HTMLResponse:
        return HTMLResponse(page, headers=page_headers)

    @app.get("/health", response_class=PlainTextResponse)
    async def get_health() -> str:
        if not batcher.running:
            raise HTTPException(503, "the model has stopped")
        return "ok"

    @guarded.get("/info")
    async def get_info() -> dict[str, Any]:
        return info

    @guarded.get("/metrics", include_in_schema=False)
    async def get_metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @guarded.get("/openapi.json", include_in_schema=False)
    async def get_openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    # FastAPI would read a body of any size, and before it looks at the token; therefore the body is read here.
    schema = {"content": {"application/json": {"schema": PredictRequest.model_json_schema()}}, "required": True}

    @guarded.post("/predict", openapi_extra={"requestBody": schema})
    async def predict(request: Request) -> PredictResponse:
        body = await read_body(request)
        return await batcher.answer(parse(request.headers.get("content-type", ""), body))

    app.include_router(guarded)
    return app


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    The rest of a body that is too large is read and dropped: many clients look for an answer only after sending all.

    Raises:
        HTTPException: 408 if the body takes too long, 413 if it is too large.
    """
    too_large = HTTPException(413, f"the body is larger than {MAX_BODY:,} bytes; send fewer texts at a time")
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= MAX_BODY:
                    body += chunk
                elif size > MAX_DISCARDED:
                    break
    except TimeoutError:
        reason = f"the body was not there within {BODY_SECONDS:g} seconds"
        raise HTTPException(408, reason, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the client has left") from None
    if size > MAX_BODY:
        raise too_large
    return bytes(body)


def read_page() -> tuple[str, dict[str, str]]:
    """Return the page and its headers; a browser runs nothing but its script, and asks nobody but this server."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    hashes = []
    for tag in ("script", "style"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes.append(f"{tag}-src 'sha256-{digest}'")
    rules = ["default-src 'none'", *hashes, "connect-src 'self'", "img-src data:", "base-uri 'none'"]
    policy = "; ".join([*rules, "form-action 'none'", "frame-ancestors 'none'"])
    return page, {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }


def describe(path: Path, class_names: list[str]) -> dict[str, Any]:
    """Return what `GET /info` answers."""
    kept = ("rows", "acc", "acc_low", "acc_high", "f1")
    metrics = read_card_metrics(path) if path.is_dir() else load_metrics(path)
    return {
        "version": package_version("lit_bert"),
        "classes": class_names,
        "metrics": {split: {key: values[key] for key in kept if key in values} for split, values in metrics.items()},
        "max_texts": MAX_TEXTS,
        "max_characters": MAX_CHARACTERS,
        "explain": CAN_EXPLAIN,
    }


def serve(source: Path, listener: socket.socket, token: str | None, max_queue: int) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first.

    Args:
        source: A checkpoint or an exported folder; "best" or "last" takes that of the newest run in runs/.
        listener: A socket that listens.
        token: What requests have to bring, if anything.
        max_queue: Maximum number of requests that wait for an answer at a time.

    Raises:
        UserError: The model cannot be loaded, or it was trained on pairs of texts.
        Exception: The model has stopped for good.
    """

    def stop() -> None:
        server.should_exit = True

    path = resolve_checkpoint(source)
    # uvicorn handles SIGTERM and Ctrl-C while it runs, and raises them again when it has ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), LoadMonitor():
        limit_threads()
        batcher = Batcher(path, max_queue)
        if batcher.predictor.text_pair_column:
            raise UserError(f"--ckpt_path {path}: it was trained on pairs of texts, which the server does not take")
        app = create_app(batcher, describe(path, batcher.predictor.class_names), token, on_failure=stop)
        gc.freeze()  # a full collection would walk all objects of the libraries and delay requests by 0.2 seconds
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
        host, port = listener.getsockname()[:2]
        status("serve", f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
        server.run(sockets=[listener])
        if batcher.failure:
            raise batcher.failure
    status("serve", "stopped")
