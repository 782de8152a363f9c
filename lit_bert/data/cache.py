"""The folder for what is fetched or computed once, and how several processes share it."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock

from lit_bert.errors import UserError


def cache_dir() -> Path:
    """Return the folder for fetched packages and tokenised rows: `LIT_BERT_CACHE`, else `~/.cache/lit_bert`."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LIT_BERT_CACHE") or Path(home) / "lit_bert").expanduser()


@contextmanager
def cached_dir(target: Path, is_complete: Callable[[Path], bool] = Path.exists) -> Iterator[Path | None]:
    """Let one process at a time build `target`: yields an empty folder to fill, or None if `target` is there already.

    The filled folder is renamed to `target`, so other processes see all of it or nothing, whatever kills this one. A
    `target` that is not complete is removed and built again.
    """
    try:
        with ExitStack() as locked:
            if not is_complete(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                locked.enter_context(FileLock(f"{target}.lock"))
            if is_complete(target):  # if need be, by another process in the meantime
                yield None
                return
            for stale in target.parent.glob(f".{target.name}-*"):  # left by a build that was killed
                shutil.rmtree(stale, ignore_errors=True)
            building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                yield building
                if target.exists():
                    shutil.rmtree(target)
                building.replace(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {target.parent}: {error.strerror or error}; free some space there, "
            "or set LIT_BERT_CACHE to a folder that can be written"
        ) from error
