"""Chromium without a window, by its DevTools protocol."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect


class Browser:
    """A page of a browser; `messages` are the errors that its console has shown."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.number = 0
        self.messages: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    @staticmethod
    @contextmanager
    def started(program: str, profile: Path) -> Iterator["Browser"]:
        """Start it with an empty profile and a narrow window."""
        words = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
        words += ["--no-sandbox", "--disable-gpu", "--window-size=500,900", "about:blank"]
        process = subprocess.Popen([program, *words], stderr=subprocess.PIPE, text=True)
        try:
            address = next(line.split("ws://")[1] for line in process.stderr or () if "DevTools listening" in line)
            with urllib.request.urlopen(f"http://{address.split('/')[0]}/json/list") as reply:
                [page] = [target for target in json.load(reply) if target["type"] == "page"]
            with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            process.wait(30)

    def call(self, method: str, **params: Any) -> Any:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(60))
            kind = message.get("method"), message.get("params", {}).get("entry", {}).get("source")
            if kind[0] in ("Log.entryAdded", "Runtime.exceptionThrown") and kind[1] != "network":
                self.messages.append(json.dumps(message))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str) -> None:
        for _ in range(300):
            if self.evaluate(script):
                return
            time.sleep(0.1)
        raise AssertionError(f"{script}: {self.evaluate('document.body.innerText')}")
