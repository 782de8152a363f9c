"""A server in a thread of the test."""

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import httpx2
import pytest
import uvicorn

from lit_bert.inference.batcher import Batcher
from lit_bert.inference.schema import PredictRequest, PredictResponse
from lit_bert.inference.server import create_app, describe


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def serving(model: Batcher, token: str | None = None) -> Iterator[httpx2.Client]:
    """Serve a model in a thread, and yield a client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(model, describe(Path(model.predictor.source), ["neg", "pos"]), token)
        running = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = Thread(target=running.run, args=[[listener]])
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
                yield client
        finally:
            running.should_exit = True
            thread.join()


@contextmanager
def held(model: Batcher) -> Iterator[None]:
    """Let the model stand still: what is asked meanwhile waits."""
    release, predict = Event(), model.predict

    def wait(requests: Sequence[PredictRequest]) -> list[PredictResponse]:
        assert release.wait(60)
        return predict(requests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", wait)
        yield
    release.set()


def until_waiting(client: httpx2.Client, number: int) -> None:
    for _ in range(600):
        if f"lit_bert_waiting_requests {number}.0" in client.get("/metrics").text:
            return
        time.sleep(0.02)
    raise AssertionError(client.get("/metrics").text)
