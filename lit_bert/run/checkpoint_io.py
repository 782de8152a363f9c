"""Checkpoint files: written whole or not at all, and found again."""

import zipfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_bert.errors import DISK_FULL_ADVICE, UserError
from lit_bert.files import atomic_write
from lit_bert.modeling.checkpoint import Checkpoint, read_safely
from lit_bert.run import run_dir


def find_newest_checkpoint(folders: Iterable[Path]) -> Checkpoint | None:
    """Return the newest checkpoint that can be read in any of some folders; of a folder that is `last.ckpt`.

    A best checkpoint may be newer, if the run was killed between the two; but not all that belongs to it is done then.
    """
    times = {path: path.stat().st_mtime_ns for folder in folders for path in folder.glob("*.ckpt")}
    newest = {path.parent: times[path] for path in sorted(times, key=times.__getitem__)}
    for path in sorted(times, key=lambda it: (newest[it.parent], it.name == run_dir.LAST, times[it]), reverse=True):
        with suppress(UserError):
            return Checkpoint.read(path)
    return None


def find_named_checkpoint(name: str, root: Path) -> Checkpoint | None:
    """Return the newest checkpoint of the runs in a folder for "last", for "best" the best of that checkpoint's run."""
    newest = find_newest_checkpoint(root.absolute().glob(f"*/{run_dir.CHECKPOINTS}"))
    if newest is None or name == "last":
        return newest
    states = AtomicCheckpointIO().load_checkpoint(newest.path).get("callbacks", {}).values()
    paths = (state.get("best_model_path") for state in states if isinstance(state, dict))
    return next((Checkpoint.read(path) for path in paths if path and Path(path).is_file()), None)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it: what is there is whole, whatever happens meanwhile.

    Lightning stages the file in the system's temporary folder, so that its rename is a copy, and an unwritable
    target goes unnoticed (Lightning-AI/pytorch-lightning#21253, #20270).
    """

    def load_checkpoint(
        self, path: _PATH, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return what `read_safely` does, names of checkpoints beside it as they are now."""
        content = read_safely(path)
        here = Path(path).absolute().parent
        for state in content.get("callbacks", {}).values():
            if "best_model_path" in state and Path(state["dirpath"]).name == here.name:  # the run may have been moved
                for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[name] = state[name] and str(here / Path(state[name]).name)
                state["best_k_models"] = {str(here / Path(k).name): v for k, v in state["best_k_models"].items()}
                state["dirpath"] = str(here)
        return content

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: object = None) -> None:
        """Write `checkpoint` to the local file `path`.

        Raises:
            UserError: The disk is full, or the folder cannot be written; the older checkpoint at `path` is intact.
        """
        with atomic_write(Path(path), DISK_FULL_ADVICE) as partial:
            with partial.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # its zip writer hides the reason of a write that failed
                    cause = error.__context__
                    raise cause if isinstance(cause, OSError) else OSError(None, str(error)) from error
            with zipfile.ZipFile(partial) as archive:
                if damaged := archive.testzip():
                    raise OSError(None, f"{damaged} in it does not read back as written")
