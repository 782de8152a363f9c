"""A folder for each run: made by one run alone, and removed if nothing came of it."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
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


class RunDir:
    """The folder of a run.

    Args:
        path: The folder.
        is_new: Whether this process has made it.
    """

    def __init__(self, path: Path, is_new: bool = False) -> None:
        self.path = path
        self._is_new = is_new

    def keep(self) -> None:
        """Keep the folder even if the command fails, because steps were trained."""
        self._is_new = False

    def remove_if_empty(self) -> None:
        """Remove a folder that this process made and left without results."""
        passing = (CONFIG, PROVENANCE, LOCK, "hparams.yaml", "events.")
        if self._is_new and self.path.is_dir() and all(file.name.startswith(passing) for file in self.path.iterdir()):
            shutil.rmtree(self.path)


@contextmanager
def open_run_dir(command: str, settings: Any, recipe: str, config: str) -> Iterator[RunDir]:
    """Yield the folder of the run that a checkpoint belongs to, else a new one; while `fit` trains there, it is locked.

    Only rank 0 makes a folder. A new folder is removed if the command fails and has left nothing in it.

    Args:
        command: "fit", "validate", "test" or "predict".
        settings: Of the command.
        recipe: What the run is called, before the data set and the time.
        config: The settings as the run's config file has them.

    Raises:
        UserError: The folder cannot be made, or another process trains in it.
    """
    root, run = Path(settings.trainer.default_root_dir or "runs"), run_dir_of(settings.ckpt_path)
    predicts = command == "predict"
    if predicts and settings.input not in (None, STDIN):
        yield RunDir(run or Path(settings.input).parent)
        return
    writes_elsewhere = predicts and (settings.output is not None or settings.input == STDIN)
    if settings.trainer.fast_dev_run or writes_elsewhere or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield RunDir(run or root)
        return
    name = run_name(recipe, settings.data.dataset)
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


def is_requeued() -> bool:
    """Tell whether this is a SLURM job that was put back into the queue, and runs again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def runs_of_this_job(root: Path) -> list[Path]:
    """Return the runs below `root` that this SLURM job made, or went on with, when it ran before."""
    job = os.environ.get("SLURM_JOB_ID")
    return [path.parent for path in root.absolute().glob(f"*/{Path(PROVENANCE).stem}*.json") if _slurm_job(path) == job]


def _slurm_job(provenance: Path) -> str | None:
    try:
        return str(json.loads(provenance.read_text("utf-8"))["slurm_job"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def run_name(recipe: str, dataset: str | dict[str, str]) -> str:
    """Return what a run is called before the time is added: by its recipe and its data set."""
    file = dataset.get("train", "") if isinstance(dataset, dict) else dataset.partition("@")[0]
    data = "rotten_tomatoes" if file == "packaged" else Path(file).name.partition(".")[0]
    plain = re.sub(r"[^\w-]+", "_", data)
    return f"{recipe}-{plain or 'data'}"


def create_run_dir(root: Path, recipe: str, name: str | None = None) -> Path:
    """Make `root/<recipe>_<time>`, with a SLURM job's number, or `root/<name>`; with -2, -3 ... if it is there already.

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


def lock(folder: Path) -> FileLock:
    """Keep other processes from training in a run's folder, until this one releases the lock or ends.

    Raises:
        UserError: Another process trains there.
    """
    held = FileLock(folder / LOCK)
    try:
        held.acquire(timeout=0)
    except OSError as error:
        if not isinstance(error, Timeout):
            raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
        raise UserError(
            f"{folder}: another process trains in this folder (it holds {LOCK}); wait for it, or stop it"
        ) from error
    return held
