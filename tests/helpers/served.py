"""A server in a process of its own, and requests to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    content: Any  # of JSON, or a string


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


class Served:
    """A running server, `python -m lit_bert.serve` with some words; what it prints goes to `log`."""

    def __init__(self, words: list[str], log: Path, **variables: str) -> None:
        self.port, self.log = free_port(), log
        command = [sys.executable, "-m", "lit_bert.serve", "--port", str(self.port), *words]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **variables}, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers."""
        for _ in range(1200):
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self("/health").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def __call__(self, path: str, body: Any = None, **headers: str) -> Reply:
        """Return the reply to a GET, or to a POST if there is a body: bytes as they are, anything else as JSON."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"content-type": "application/json", **headers}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            reply = urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as error:
            reply = error
        with reply:
            content = reply.read().decode()
            names = {name.lower(): value for name, value in reply.headers.items()}
        return Reply(reply.status, names, json.loads(content) if "json" in names.get("content-type", "") else content)

    def worker(self) -> int:
        """Return the id of the process with the model."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        [worker] = [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return int(worker)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Let its worker stand still: what is asked meanwhile waits."""
        worker = self.worker()
        os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(worker, signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM, group: bool = False) -> int:
        """Send a signal, to the first process or, as a terminal does, to all of them; return the exit status."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self.process.wait(60)


@contextmanager
def served(words: list[str], log: Path, **variables: str) -> Iterator[Served]:
    """Start a server and wait until it answers; at the end nothing of it is left."""
    server = Served(words, log, **variables)
    try:
        server.wait()
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        for _ in range(50):
            try:
                os.killpg(server.process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
        os.killpg(server.process.pid, signal.SIGKILL)
        raise AssertionError(f"a process was left: {server.log.read_text()}")
