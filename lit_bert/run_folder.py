"""A folder for each run: claimed by one run alone, and given back if nothing came of it."""

import itertools
import shutil
from datetime import datetime
from pathlib import Path

from lit_bert.errors import UserError

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"


def owner(checkpoint: str | Path | None) -> Path | None:
    """Return the folder of the run that wrote a checkpoint, or None if the file stands elsewhere."""
    if checkpoint is None or Path(checkpoint).absolute().parent.name != CHECKPOINTS:
        return None
    folder = Path(checkpoint).absolute().parent.parent
    return folder if (folder / CONFIG).is_file() else None


def config(folder: Path) -> Path:
    """Return the newest config of a run: each resumption adds one."""
    return max(folder.glob(f"{Path(CONFIG).stem}*.yaml"), key=lambda file: file.stat().st_mtime_ns)


def claim(root: Path, recipe: str) -> Path:
    """Make `root/<recipe>_<time>`, or the first of -2, -3 ... that another run has not made.

    Raises:
        UserError: The folder cannot be made.
    """
    name = f"{recipe}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = root.absolute() / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            break
    except OSError as error:
        raise UserError(
            f"--trainer.default_root_dir {root}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    return folder


def discard(folder: Path) -> None:
    """Remove the folder of a run that ended before its first step, unless it has results."""
    if folder.is_dir() and all(file.name.startswith((CONFIG, "hparams.yaml", "events.")) for file in folder.iterdir()):
        shutil.rmtree(folder)


def unused(path: Path) -> Path:
    """Return `path`, or the first of name-2, name-3 ... that is not there: older results are kept."""
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def shown(path: str | Path) -> str:
    """Return a path as one types it: relative if it lies below the current folder."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
