"""A folder for each run: made by one run alone, and removed if nothing came of it."""

import itertools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from lit_bert.data.formats import STDIN
from lit_bert.errors import UserError
from lit_bert.files import atomic_write

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
PROVENANCE = "provenance.json"
METRICS = "metrics.json"
EXPORT = "export"
LABELS = "likely_wrong_labels.csv"
LOCK = ".lock"


@dataclass
class RunDir:
    """The folder of a run; `is_new` if this command has made it, and has not trained there."""

    path: Path
    is_new: bool = False

    def keep(self) -> None:
        """Keep the folder even if the command fails, because steps were trained."""
        self.is_new = False

    def remove_if_empty(self) -> None:
        """Remove a folder that this process made and left without results."""
        passing = (CONFIG, PROVENANCE, LOCK, "hparams.yaml", "events.")
        if self.is_new and self.path.is_dir() and all(file.name.startswith(passing) for file in self.path.iterdir()):
            shutil.rmtree(self.path)


@contextmanager
def open_run_dir(command: str, settings: Namespace, recipe: str, config: str) -> Iterator[RunDir]:
    """Yield the folder of the run that a checkpoint belongs to, else a new one; while `fit` trains there, it is locked.

    Only rank 0 makes a folder, and names it by the recipe, the data set and the time. It writes `config` there, the
    text of the settings, unless `fit` does. A new folder is removed if the command fails and has left nothing in it.

    Raises:
        UserError: The folder cannot be made, or another process trains in it.
    """
    root, run = Path(settings.trainer.default_root_dir or "runs"), run_dir_of(settings.ckpt_path)
    source, output = (settings.get(name) for name in ("input", "output"))  # only `predict` has them
    if settings.trainer.fast_dev_run or source or output or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield RunDir(run or (Path(source).parent if source and source != STDIN else root))
        return
    name = f"{recipe}-{_data_name(settings.data.dataset)}"
    folder = RunDir(run) if run else RunDir(create_run_dir(root, name, settings.name), is_new=True)
    held = lock(folder.path) if command == "fit" else None
    if held is None and run is None:
        with atomic_write(folder.path / CONFIG) as partial:
            partial.write_text(config, encoding="utf-8")
    try:
        yield folder
    except BaseException:
        folder.remove_if_empty()
        raise
    finally:
        if held is not None:
            held.release()


def run_dir_of(checkpoint: str | Path | None) -> Path | None:
    """Return the folder of the run that wrote a checkpoint, or an export; None if it stands elsewhere."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint).absolute().parent
    folder = folder.parent if folder.name == CHECKPOINTS else folder if Path(checkpoint).is_dir() else Path()
    return folder if (folder / CONFIG).is_file() and folder != Path() else None


def _data_name(dataset: str | dict[str, str]) -> str:
    file = dataset.get("train", "") if isinstance(dataset, dict) else dataset.partition("@")[0]
    name = "rotten_tomatoes" if file == "packaged" else Path(file).name.partition(".")[0]
    return re.sub(r"[^\w-]+", "_", name) or "data"


def create_run_dir(root: Path, recipe: str, name: str | None = None) -> Path:
    """Make `root/<recipe>_<time>`, with a SLURM job's number, or `root/<name>`; -2, -3 ... are added if it exists.

    Raises:
        UserError: The folder cannot be made.
    """
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise UserError(f"--name {name}: give a name for a folder, without / and not beginning with a dot")
    job = f"_job-{os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""
    name = name or f"{recipe}_{datetime.now():%Y-%m-%d_%H-%M-%S}{job}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = root.absolute() / (name if number == 1 else f"{name}-{number}")
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        what = f"--trainer.default_root_dir {root}: cannot be written ({error.strerror})"
        raise UserError(f"{what}; choose another folder") from error
    return folder


def lock(folder: Path) -> FileLock:
    """Keep other processes from training in a run's folder, until this one releases the lock or ends.

    Raises:
        UserError: Another process trains there, or the folder cannot be written.
    """
    held = FileLock(folder / LOCK)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        what = f"{folder}: another process trains in this folder (it holds {LOCK})"
        raise UserError(f"{what}; wait for it, or stop it") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return held
