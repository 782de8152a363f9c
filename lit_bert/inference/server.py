"""A trained classifier behind an address.

Requests pass the `Gate`, FastAPI checks their content, and LitServe hands them to a process for each GPU, or one on the
CPU, where a `Predictor` answers all that wait together.
"""

import base64
import hashlib
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from litserve import LitAPI, LitServer
from litserve.loops import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType, WorkerSetupStatus

from lit_bert.callbacks.run_record import package_version
from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.inference.card import read_card_metrics
from lit_bert.inference.export import load_metrics, resolve_checkpoint
from lit_bert.inference.gate import Gate
from lit_bert.inference.predictor import Predictor
from lit_bert.inference.schema import (
    CAN_EXPLAIN,
    MAX_CHARACTERS,
    MAX_TEXTS,
    Answer,
    PredictRequest,
    PredictResponse,
    Word,
)
from lit_bert.run.openmp import LoadMonitor, limit_threads

BATCH_TEXTS = 64
"""Texts after which no further request is added to those that are predicted together."""

READY_SECONDS = 60.0
"""After which signals interrupt the first process though the one that answers requests has not started."""

QUEUE_SECONDS = 30.0
"""How long a request may wait until it is predicted."""

_PAGE = Path(__file__).with_name("page.html")
_logger = logging.getLogger("litserve")


class ClassifierAPI(LitAPI):  # type: ignore[misc]
    """What a worker does: LitServe makes one in each of its processes.

    Args:
        source: A checkpoint or an exported folder, as `Predictor` takes it.
    """

    def __init__(self, source: str) -> None:
        super().__init__(max_batch_size=BATCH_TEXTS, loop=GatheringLoop())
        self.source = source

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        limit_threads()
        LoadMonitor().__enter__()  # for as long as the worker lives
        self.predictor = Predictor(self.source, device)

    # LitServe takes the types of a request's and an answer's body from these two.
    def decode_request(self, request: PredictRequest) -> PredictRequest:
        return request

    def encode_response(self, output: PredictResponse) -> PredictResponse:
        return output

    def predict(self, requests: Sequence[PredictRequest]) -> list[PredictResponse]:
        """Return a response for each request; all their texts are predicted together."""
        texts = [text for request in requests for text in request.all_texts()]
        predictions = iter(self.predictor(texts))
        responses = []
        for request in requests:
            texts = request.all_texts()
            answers = [Answer(label=of.label, score=of.score, probs=of.probs) for of in islice(predictions, len(texts))]
            if request.explain:
                for answer, why in zip(answers, self.predictor.explain(texts), strict=True):
                    answer.words = [Word(text=text, score=score) for text, score in why.words]
            responses.append(PredictResponse(predictions=answers))
        return responses


class GatheringLoop(LitLoop):  # type: ignore[misc]
    """Takes all requests that wait, at once; while they are predicted, the next ones gather.

    LitServe's own loop never sleeps: it looks into the queue without a pause, or every millisecond if it is to wait
    for a batch to fill (`collate_requests` in litserve/loops/base.py of 0.2.19), and counts requests, not texts.
    """

    def run(
        self, lit_api: ClassifierAPI, device: str, worker_id: int, request_queue: "Queue[Any]", transport: Any, *_: Any
    ) -> None:
        """Answer the requests of one batch, after the first has come, if one comes within a second.

        Without an end, the queue would hand the first request after a crash to the worker that crashed.
        """
        try:
            waiting = [request_queue.get(timeout=1)]
        except Empty:
            return
        while sum(len(request.all_texts()) for *_, request in waiting) < lit_api.max_batch_size:
            try:
                waiting.append(request_queue.get_nowait())
            except Empty:
                break
        oldest = time.monotonic() - QUEUE_SECONDS
        late = [item for item in waiting if item[2] < oldest]
        self._answer(transport, late, [HTTPException(504, f"it waited for {QUEUE_SECONDS:g} seconds")] * len(late))
        if batch := [item for item in waiting if item[2] >= oldest]:
            try:
                answers: Sequence[Any] = lit_api.predict([request for *_, request in batch])
            except Exception:
                _logger.exception("a batch was not predicted")
                answers = [HTTPException(500, "the model failed; the server's output says why")] * len(batch)
            self._answer(transport, batch, answers)

    def _answer(self, transport: Any, items: Sequence[Any], answers: Sequence[Any]) -> None:
        for (queue_id, uid, *_), answer in zip(items, answers, strict=True):
            outcome = LitAPIStatus.ERROR if isinstance(answer, Exception) else LitAPIStatus.OK
            self.put_response(transport, queue_id, uid, answer, outcome, LoopResponseType.REGULAR)


class Server(LitServer):  # type: ignore[misc]
    """LitServe's server with a page, a gate, and an orderly end.

    Args:
        source: A checkpoint or an exported folder.
        info: What `GET /info` answers.
        token: What requests have to bring; None asks for none.
        max_queue: Requests that wait for an answer at a time, at most.
        address: What is printed when it is ready.
    """

    def __init__(self, source: str, info: dict[str, Any], token: str | None, max_queue: int, address: str) -> None:
        gate = {"token": token, "max_queue": max_queue, "answer_seconds": 4 * QUEUE_SECONDS}
        gpus = torch.cuda.device_count()
        super().__init__(
            ClassifierAPI(source),
            accelerator="cuda" if gpus else "cpu",
            devices=gpus or 1,
            timeout=QUEUE_SECONDS,
            middlewares=[(Gate, gate)],
            disable_openapi_url=True,  # or FastAPI's /docs loads scripts from elsewhere
            restart_workers=True,
        )
        self.address = address
        self.ready = multiprocessing.Event()
        self.waiting = False  # the first process waits for a signal
        self.stopping = self.ending = False  # one came; it was acted on, and further ones are passed over
        self.app.title, self.app.version = "lit_bert", info["version"]
        self.app.add_exception_handler(RequestValidationError, _explain_invalid)
        routes = self.app.router.routes
        routes[:] = [route for route in routes if route.path not in ("/", "/info")]  # LitServe's own
        self._add_pages(info)

    def _add_pages(self, info: dict[str, Any]) -> None:
        app: FastAPI = self.app
        content, headers = read_page()

        @app.get("/", include_in_schema=False)
        async def page() -> HTMLResponse:
            return HTMLResponse(content, headers=headers)

        @app.get("/openapi.json", include_in_schema=False)
        async def openapi() -> JSONResponse:
            return JSONResponse(app.openapi())

        @app.get("/info")
        async def model_info() -> JSONResponse:
            return JSONResponse(info)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Say that it is ready, which it is when a worker has loaded the model."""
        async with super().lifespan(app):
            self.ready.set()
            status("serve", f"{self.address} (Ctrl-C ends it)")
            yield

    def verify_worker_status(self) -> None:
        """Wait until a worker has loaded the model; then let signals interrupt the first process, once it waits.

        Raises:
            KeyboardInterrupt: A signal came.
        """
        while set(self.workers_setup_status.values()) == {WorkerSetupStatus.STARTING}:
            if self.stopping:
                raise KeyboardInterrupt
            time.sleep(0.05)
        super().verify_worker_status()
        threading.Thread(target=self._await_signals, daemon=True).start()

    def _await_signals(self) -> None:
        """Note when the first process waits, and send again a signal that came before."""
        self.ready.wait(READY_SECONDS)
        self.waiting = True
        if self.stopping:
            os.kill(os.getpid(), signal.SIGTERM)

    def launch_inference_worker(self, lit_api: LitAPI) -> Any:
        with _blocked(signal.SIGINT):
            return super().launch_inference_worker(lit_api)

    def launch_single_inference_worker(self, lit_api: LitAPI, worker_id: int) -> Any:
        """Start a worker in place of one that died; LitServe's monitor takes those that it ends itself for such."""
        if self.stopping:
            return self.inference_workers[worker_id]
        with _blocked(signal.SIGINT):
            return super().launch_single_inference_worker(lit_api, worker_id)

    def serve(self, host: str, port: int) -> None:
        """Serve until SIGINT or SIGTERM, and answer what has been asked before that.

        LitServe's `run` handles Ctrl-C alone, and logs tracebacks on the way; SIGTERM ends its first process and leaves
        the others behind (`run` and `_start_worker_monitoring` in litserve/server.py of 0.2.19). Its first process is
        interrupted only where it waits: raised while another is started, an exception would be lost in Python's
        callbacks at a fork, or leave a process half begun.
        """
        first = os.getpid()

        def stop(number: int, frame: Any) -> None:
            if os.getpid() != first or self.ending:  # the others have inherited this handler
                return
            self.stopping = True
            if self.waiting:
                self.ending = True
                _logger.setLevel(logging.CRITICAL)
                raise KeyboardInterrupt

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        try:
            self.run(
                host, port, num_api_servers=1, log_level="warning", generate_client_file=False, server_header=False
            )
        except KeyboardInterrupt:  # before it was ready
            pass
        finally:
            self.stopping = self.ending = True
            for process in multiprocessing.active_children():
                process.terminate()
                process.join(1)
                process.kill()


@contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Let processes that are started meanwhile never see a signal: Ctrl-C reaches all that share a terminal."""
    resource_tracker.ensure_running()  # which unblocks SIGINT when it has to start first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _explain_invalid(request: Request, error: Exception) -> JSONResponse:
    """Answer 422 without repeating what was sent, as FastAPI would."""
    assert isinstance(error, RequestValidationError)
    details = [{key: problem[key] for key in ("loc", "msg", "type")} for problem in error.errors()]
    for detail, problem in zip(details, error.errors(), strict=True):
        if problem["type"] == "json_invalid":
            detail["msg"] += f": {problem['ctx']['error']}"
        elif not request.headers.get("content-type", "").startswith("application/json"):
            detail["msg"] = "Send JSON, with the header Content-Type: application/json"
    return JSONResponse({"detail": details}, HTTPStatus.UNPROCESSABLE_ENTITY)


def read_page() -> tuple[str, dict[str, str]]:
    """Return the page and its headers; a browser runs nothing but its script, and asks nobody but this server."""
    page = _PAGE.read_text(encoding="utf-8")
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


def describe(path: Path) -> dict[str, Any]:
    """Return what `GET /info` answers, after loading the model once, so that a mistake is told before workers start.

    Raises:
        UserError: As `Predictor` raises it; or the model was trained on pairs of texts.
    """
    predictor = Predictor(path, "cpu")
    if predictor.text_pair_column:
        raise UserError(f"--ckpt_path {path}: it was trained on pairs of texts, which the server does not take")
    kept = ("rows", "acc", "acc_low", "acc_high", "f1")
    metrics = read_card_metrics(path) if path.is_dir() else load_metrics(path)
    return {
        "version": package_version("lit_bert"),
        "classes": predictor.class_names,
        "metrics": {split: {key: of[key] for key in kept if key in of} for split, of in metrics.items()},
        "max_texts": MAX_TEXTS,
        "max_characters": MAX_CHARACTERS,
        "explain": CAN_EXPLAIN,
    }


def serve(source: Path, host: str, port: int, token: str | None, max_queue: int) -> None:
    """Serve until a signal ends it.

    Args:
        source: A checkpoint or an exported folder; "best" or "last" takes that of the newest run in runs/.
        host: The address to listen on.
        port: Its port.
        token: What requests have to bring, if anything.
        max_queue: Requests that wait for an answer at a time.

    Raises:
        UserError: The model cannot be loaded, or it was trained on pairs of texts.
    """
    path = resolve_checkpoint(source)
    info = describe(path)
    address = f"[{host}]" if ":" in host else host
    Server(str(path), info, token, max_queue, f"http://{address}:{port}").serve(host, port)
    status("serve", "stopped")
