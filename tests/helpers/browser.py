"""Chromium without a window, by its DevTools protocol."""

import base64
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

KEYS = {"Enter": (13, "\r"), "Tab": (9, "")}


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
        """Start it with an empty profile."""
        words = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-first-run"]
        words += ["--disable-gpu", "--disable-background-networking", "about:blank"]
        words += ["--no-sandbox"] if os.getuid() == 0 else []
        process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            file = profile / "DevToolsActivePort"
            for _ in range(600):
                if file.is_file() and file.read_text().strip():
                    break
                time.sleep(0.1)
            port = file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
                [page] = [target for target in json.load(reply) if target["type"] == "page"]
            with connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            process.wait(30)

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol, and return its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(60))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["source"] != "network":
                self.messages.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.messages.append(json.dumps(message["params"]))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until(f"location.href === '{url}' && document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until a script is true."""
        for _ in range(300):
            if self.evaluate(script):
                return
            time.sleep(0.1)
        raise AssertionError(f"{script}: {self.evaluate('document.body.innerText')}")

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, control: bool = False) -> None:
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            shown = {"text": text} if text and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=2 * control,
                **shown,
            )

    def screen(self, width: int, height: int, scheme: str = "light") -> None:
        """Set the size of the screen in pixels, and which colours are preferred."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> None:
        """Write what it shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
