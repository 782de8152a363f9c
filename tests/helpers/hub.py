"""A Hugging Face Hub on the loopback interface, as much of it as `huggingface_hub` asks for."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories: `repos["models/owner/name"] = folder`; those in `gated` want a login."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.repos: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.silent = False  # accepts, and never answers
        self.breaks_off = False  # sends half of each file
        self.asked: list[str] = []
        self.created: dict[str, dict[str, Any]] = {}  # what was asked for, of repositories that were made
        self.uploads: dict[str, dict[str, bytes]] = {}  # their files by name
        self.token = "secret"  # without which nothing can be written


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.silent:
            threading.Event().wait(30)
        if found := re.match(r"/api/(models|datasets)/([^/]+/[^/?]+)(?:/(tree|revision)/[^?]+)?(?:\?|$)", self.path):
            repo = f"{found[1]}/{found[2]}"
            if self._refused(repo):
                return
            files = sorted(file for file in self.server.repos[repo].rglob("*") if file.is_file())
            sizes = {str(file.relative_to(self.server.repos[repo])): file.stat().st_size for file in files}
            tree = [{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()]
            about = {"id": found[2], "sha": COMMIT, "siblings": [{"rfilename": name} for name in sizes]}
            self._send(json.dumps(tree if found[3] == "tree" else about).encode())
        elif found := re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path):
            repo = f"{'datasets' if found[1] else 'models'}/{found[2]}"
            if self._refused(repo):
                return
            self._send((self.server.repos[repo] / found[3]).read_bytes())
        else:
            self._send(b"", 404)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path == "/api/validate-yaml":
            self._send(b'{"errors": [], "warnings": []}')
        elif self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._send(b'{"error": "Invalid username or password."}', 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.server.created[repo] = asked
            self._send(json.dumps({"url": f"http://127.0.0.1:{self.server.server_port}/{repo}"}).encode())
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._send(json.dumps({"files": [{**file, "shouldIgnore": False} for file in files]}).encode())
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            lines = [json.loads(line)["value"] for line in body.splitlines() if json.loads(line)["key"] == "file"]
            files = {line["path"]: base64.b64decode(line["content"]) for line in lines}
            self.server.uploads.setdefault(found[1], {}).update(files)
            address = f"http://127.0.0.1:{self.server.server_port}/{found[1]}/commit/{COMMIT}"
            self._send(json.dumps({"commitUrl": address, "commitOid": COMMIT, "pullRequestUrl": None}).encode())
        else:
            self._send(b"", 404)

    def _refused(self, repo: str) -> bool:
        if repo in self.server.gated:
            self._send(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        elif repo not in self.server.repos:
            self._send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        elif "no-such-tag" in self.path:
            self._send(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return False
        return True

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = hashlib.sha1(body).hexdigest()
        for name, value in {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            cut = self.server.breaks_off and "/resolve/" in self.path
            self.wfile.write(body[: len(body) // 2] if cut else body)


@contextmanager
def serving(port: int) -> Iterator[Hub]:
    """Run a Hub at a port until the block ends."""
    with Hub(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
