"""The packaged source, against a package index on the loopback interface; and folders that hold no encoder."""

import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lit_bert import sources
from lit_bert.errors import UserError

WHEEL = "demo_data-1.0-py3-none-any.whl"


class Index(ThreadingHTTPServer):
    """A package index with the project demo-data; `breaks_off` sends half of its wheel."""

    daemon_threads = True
    wheel = b""
    breaks_off = False
    sent = 0


class Answer(BaseHTTPRequestHandler):
    server: Index

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.server.wheel if self.path.endswith(".whl") else f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/zip" if self.path.endswith(".whl") else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path.endswith(".whl"):
            self.server.sent += 1
            body = body[: len(body) // 2] if self.server.breaks_off else body
        self.wfile.write(body)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as wheel:
        wheel.writestr("demo_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo-data\nVersion: 1.0\n")
        wheel.writestr("demo_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr("demo_data-1.0.dist-info/RECORD", "")
        wheel.writestr("demo_data/rows.txt", os.urandom(200_000).hex())
    with Index(("127.0.0.1", 0), Answer) as server:
        server.wheel = (tmp_path / WHEEL).read_bytes()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "cache"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def package(index: Index) -> sources.Package:
    return sources.Package("demo-data", "1.0", WHEEL, hashlib.sha256(index.wheel).hexdigest())


def test_a_package_is_downloaded_once_and_verified_each_time(index: Index) -> None:
    archive = sources.fetch_package(package(index))
    assert archive.read_bytes() == index.wheel
    assert sources.fetch_package(package(index)) == archive
    assert index.sent == 1
    archive.write_bytes(b"changed on the disk")
    assert sources.fetch_package(package(index)).read_bytes() == index.wheel
    assert index.sent == 2


def test_another_checksum_is_refused_before_anything_is_read(index: Index) -> None:
    wanted = package(index)
    index.wheel = index.wheel.replace(b"Name: demo-data", b"Name: evil-data")
    found = hashlib.sha256(index.wheel).hexdigest()
    with pytest.raises(UserError, match=f"{WHEEL} from the package index has SHA-256 {found}, not {wanted.sha256}"):
        sources.fetch_package(wanted)
    assert not list(sources.cache_folder().rglob("*.whl"))


def test_a_download_that_breaks_off_leaves_nothing_and_is_taken_up_again(index: Index) -> None:
    index.breaks_off = True
    with pytest.raises(UserError, match=r"pip could not download demo-data==1.0 from your|has SHA-256"):
        sources.fetch_package(package(index))
    assert not list(sources.cache_folder().rglob("*.whl"))
    index.breaks_off = False
    assert sources.fetch_package(package(index)).is_file()


def test_an_index_out_of_reach(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(UserError, match=r"pip could not download demo-data==1.0 .*check the network"):
        sources.fetch_package(package(index))


def test_what_a_killed_build_left_is_cleared_away(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "thing"
    stale = tmp_path / "cache" / ".thing-killed"
    stale.mkdir(parents=True)
    with sources.built_once(target) as folder:
        assert folder is not None
        (folder / "part").write_text("whole")
        assert not target.exists()
    assert (target / "part").read_text() == "whole"
    assert not stale.exists()
    with sources.built_once(target) as folder:
        assert folder is None


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with sources.built_once(tmp_path / "cache" / "thing") as folder:
            assert folder is not None
            (folder / "part").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["thing.lock"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UserError, match=r"cannot write .*file: .*LIT_BERT_CACHE"),
        sources.built_once(tmp_path / "file" / "thing"),
    ):
        pass


def test_folders_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--model.pretrained \./none: there is no such folder"):
        sources.fetch_encoder("./none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the folder has no config.json"):
        sources.fetch_encoder(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"a config.json but no weights"):
        sources.fetch_encoder(str(tmp_path / "empty"))
