"""The folder for what is fetched or computed once, and how several processes share it."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from lit_bert.console import status
from lit_bert.errors import UserError


def cache_dir() -> Path:
    """Return the folder for fetched packages and tokenised rows: `LIT_BERT_CACHE`, else `~/.cache/lit_bert`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LIT_BERT_CACHE") or Path(home) / "lit_bert").expanduser()


_CHECKSUMS = "checksums.json"
_intact: set[tuple[Path, int]] = set()  # verified in this process: folder, and time of its checksums


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _CHECKSUMS)
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


def is_intact(folder: Path) -> bool:
    """Tell whether a folder is as it was written. Its files are read once in a process, at about 1 GB a second."""
    try:
        path = folder / _CHECKSUMS
        known = folder, path.stat().st_mtime_ns
        if known not in _intact and json.loads(path.read_text("utf-8")) == _checksums(folder):
            _intact.add(known)
    except (OSError, ValueError):
        return False
    return known in _intact


@contextmanager
def cached_dir(target: Path) -> Iterator[Path | None]:
    """Let one process at a time build `target`: yields an empty folder to fill, or None if `target` is there already.

    Other processes see all of `target` or nothing, whatever kills this one. If it is damaged, it is built again.
    """
    try:
        if is_intact(target):
            yield None
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if is_intact(target):  # built by another process in the meantime
                yield None
                return
            if target.exists():
                status("cache", f"{target} is damaged, or of an older version; it is made again", err=True)
            for stale in target.parent.glob(f".{target.name}-*"):  # left by a build that was killed
                shutil.rmtree(stale, ignore_errors=True)
            building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                yield building
                (building / _CHECKSUMS).write_text(json.dumps(_checksums(building)), encoding="utf-8")
                shutil.rmtree(target, ignore_errors=True)
                building.replace(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {target.parent}: {error.strerror or error}; free some space there, "
            "or set LIT_BERT_CACHE to a folder that can be written"
        ) from error
