"""A server in a thread of the test."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import httpx2
import uvicorn

from lit_bert.inference.batcher import Batcher
from lit_bert.inference.server import create_app


@contextmanager
def serving(model: Batcher, token: str | None = None) -> Iterator[httpx2.Client]:
    """Serve a model in a thread, and yield a client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(create_app(model, token), log_level="critical"))
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
    release = Event()
    model.thread.submit(release.wait, 60)
    yield
    release.set()


def until_waiting(client: httpx2.Client, number: int) -> None:
    for _ in range(600):
        if f"lit_bert_waiting_requests {number}.0" in client.get("/metrics").text:
            return
        time.sleep(0.02)
    raise AssertionError(client.get("/metrics").text)
