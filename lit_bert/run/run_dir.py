"""A folder for each run: made by one run alone, and removed if nothing came of it."""

import hashlib
import itertools
import json
import os
import re
import shutil
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lit_bert.errors import UserError

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
PROVENANCE = "provenance.json"
METRICS = "metrics.json"
EXPORT = "export"
LABELS = "likely_wrong_labels.csv"
LOCK = ".lock"

_CHECKSUM = "# sha256 of the lines below: "


def run_dir_of(checkpoint: str | Path | None) -> Path | None:
    """Return the folder of the run that wrote a checkpoint, or an export; None if it stands elsewhere."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint).absolute().parent
    folder = folder.parent if folder.name == CHECKPOINTS else folder if Path(checkpoint).is_dir() else Path()
    return folder if (folder / CONFIG).is_file() and folder != Path() else None


def newest_config(folder: Path) -> Path:
    """Return the newest config of a run: each resumption adds one."""
    return max(folder.glob(f"{Path(CONFIG).stem}*.yaml"), key=lambda file: file.stat().st_mtime_ns)


def with_checksum(config: str) -> str:
    """Return a config's text with a first line that tells whether the others are as they were written."""
    return f"{_CHECKSUM}{hashlib.sha256(config.encode()).hexdigest()}\n{config}"


def verify_config(file: Path) -> None:
    """Compare a run's config with its checksum, if it has one.

    Raises:
        UserError: It is damaged, or was changed.
    """
    first, _, rest = file.read_bytes().partition(b"\n")
    intact = first.split()[-1:] == [hashlib.sha256(rest).hexdigest().encode()]
    if not intact and (first.startswith(_CHECKSUM.encode()) or b"\ntrainer:" not in rest):
        raise UserError(
            f"{file}: it is not as it was written (its first line is a checksum of the others); if you changed it, "
            "remove that line, or give your options on the command line instead"
        )


def is_requeued() -> bool:
    """Tell whether this is a SLURM job that was put back into the queue, and runs again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def _job() -> str:
    return f"_job-{os.environ['SLURM_JOB_ID']}" if "SLURM_JOB_ID" in os.environ else ""


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
    name = name or f"{recipe}_{datetime.now():%Y-%m-%d_%H-%M-%S}{_job()}"
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


def remove_if_empty(folder: Path) -> None:
    """Remove the folder of a run that ended before its first step, unless it has results."""
    passing = (CONFIG, PROVENANCE, LOCK, "hparams.yaml", "events.")
    if folder.is_dir() and all(file.name.startswith(passing) for file in folder.iterdir()):
        shutil.rmtree(folder)
