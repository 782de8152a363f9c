"""A trained classifier behind an address: FastAPI on uvicorn, with a page to try it on."""

import asyncio
import base64
import gc
import hashlib
import hmac
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.inference.batcher import Batcher
from lit_bert.inference.card import read_card_metrics
from lit_bert.inference.export import load_metrics, resolve_checkpoint
from lit_bert.inference.schema import CAN_EXPLAIN, MAX_CHARACTERS, MAX_TEXTS, PredictRequest, PredictResponse
from lit_bert.run.hardware import package_version
from lit_bert.run.openmp import LoadMonitor, limit_threads

MAX_BODY, BODY_SECONDS = 1 << 20, 30.0
"""Maximum size of a request's body in bytes, and how long a client may take to send it."""

REQUESTS = Counter("lit_bert_requests", "Requests to /predict, by the status of their answer", ["status"])
SECONDS = Histogram("lit_bert_request_seconds", "Seconds from the head of a request to /predict to its answer")

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    content = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


# A browser runs nothing but the page's own script, and asks nobody but this server.
PAGE_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def create_app(batcher: Batcher, token: str | None) -> FastAPI:
    """Return the application; all requests but those for the page and the health have to bring the token, if any."""
    path = Path(batcher.predictor.source)
    metrics = read_card_metrics(path) if path.is_dir() else load_metrics(path)
    kept = ("rows", "acc", "acc_low", "acc_high", "f1")
    info: dict[str, Any] = {
        "version": package_version("lit_bert"),
        "classes": batcher.predictor.class_names,
        "metrics": {split: {key: values[key] for key in kept if key in values} for split, values in metrics.items()},
        "max_texts": MAX_TEXTS,
        "max_characters": MAX_CHARACTERS,
        "explain": CAN_EXPLAIN,
    }
    bearer = HTTPBearer(auto_error=False)

    async def check_token(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if not given or not hmac.compare_digest(given.credentials.encode(), str(token).encode()):
            reason = f"{'the token is wrong' if given else 'a token is needed'}: send Authorization: Bearer <token>"
            raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})

    # FastAPI's own page of documentation would load scripts from another server.
    app = FastAPI(title="lit_bert", version=info["version"], openapi_url=None)
    guarded = APIRouter(dependencies=[Depends(check_token)] if token else [])

    @app.middleware("http")
    async def measure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path != "/predict":
            return await call_next(request)
        with SECONDS.time():
            response = await call_next(request)
        REQUESTS.labels(response.status_code).inc()
        return response

    @guarded.get("/metrics", include_in_schema=False)
    async def get_metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    # FastAPI would read a body of any size, and before it looks at the token; therefore `read_request` reads it.
    schema = {"content": {"application/json": {"schema": PredictRequest.model_json_schema()}}, "required": True}

    @guarded.post("/predict", openapi_extra={"requestBody": schema}, response_model_exclude_none=True)
    async def predict(request: Annotated[PredictRequest, Depends(read_request)]) -> PredictResponse:
        return await batcher.answer(request)

    app.add_api_route("/", lambda: HTMLResponse(PAGE, headers=PAGE_HEADERS), include_in_schema=False)
    app.add_api_route("/health", lambda: "ok", name="health", response_class=PlainTextResponse)
    guarded.add_api_route("/info", lambda: info, name="info")
    guarded.add_api_route("/openapi.json", app.openapi, include_in_schema=False)
    app.include_router(guarded)
    return app


async def read_request(request: Request) -> PredictRequest:
    """Read what a client sends; what is wrong with it is answered without repeating it.

    Raises:
        HTTPException: 408 if it takes too long, 413 if it is too large, 422 with the place and reason of each problem.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise HTTPException(413, f"the body is larger than {MAX_BODY:,} bytes; send fewer texts at a time")
        if not request.headers.get("content-type", "").startswith("application/json"):
            # A page of another site may make a browser send text here, but not JSON.
            reason = "Send JSON, with the header Content-Type: application/json"
            raise HTTPException(422, [{"loc": ["body"], "msg": reason, "type": "content_type"}])
        return PredictRequest.model_validate_json(body)
    except (TimeoutError, ClientDisconnect):
        reason = f"the body was not there within {BODY_SECONDS:g} seconds"
        raise HTTPException(408, reason, {"Connection": "close"}) from None
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        known = {"extra_forbidden": {"msg": "There is no such field: send text or texts"}}  # of others' servers: inputs
        details = [{**each, **known.get(each["type"], {}), "loc": ["body", *each["loc"]]} for each in problems]
        raise HTTPException(422, details) from None


def serve(source: Path, listener: socket.socket, token: str | None, max_queue: int) -> None:
    """Serve a checkpoint or an exported folder until SIGTERM or Ctrl-C; requests in flight are answered first.

    Raises:
        UserError: The model cannot be loaded, or it was trained on pairs of texts.
        AcceleratorError: The GPU has failed for good.
    """

    def stop() -> None:
        server.should_exit = True

    path = resolve_checkpoint(source)
    # uvicorn handles SIGTERM and Ctrl-C while it runs, and raises them again when it has ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), LoadMonitor():
        limit_threads()
        batcher = Batcher(path, max_queue, stop)
        if batcher.predictor.text_pair_column:
            raise UserError(f"--ckpt_path {path}: it was trained on pairs of texts, which the server does not take")
        config = uvicorn.Config(create_app(batcher, token), log_level="warning", server_header=False)
        server = uvicorn.Server(config)
        gc.freeze()  # a full collection would walk all objects of the libraries and delay requests by 0.2 seconds
        host, port = listener.getsockname()[:2]
        status("serve", f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)")
        server.run(sockets=[listener])
        if batcher.failure:
            raise batcher.failure
    status("serve", "stopped")
