"""Checkpoint files: written whole or not at all, read without running what they hold."""

import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_bert import files, run_folder
from lit_bert.errors import UserError

FULL = "checkpoints written before are intact: make room, and resume from the newest with --ckpt_path"
"""What to do if a disk is full."""

ENCODER_FILES = re.compile(
    r"(config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt|chat_template\.jinja"
)
"""Files of an encoder that may travel in a checkpoint: all of them are data, none is code."""


def read(path: _PATH) -> dict[str, Any]:
    """Return the content of a checkpoint of `lit_bert.BertClassifier`, its tensors mapped from the file, not copied.

    Beside Lightning's own keys it holds `encoder`: the text of `config.json` and of the tokenizer's files, by name.

    Raises:
        UserError: The file is missing, cut short, no such checkpoint, a pickle that wants to run code, or holds files
            that are no encoder's.
    """
    if Path(path).is_dir():
        raise UserError(f"--ckpt_path {path}: this is a folder, which only `predict --input` takes; give a .ckpt file")
    if not Path(path).is_file():
        raise UserError(f"--ckpt_path {path}: there is no such file{_nearby(Path(path))}")
    if not zipfile.is_zipfile(path):  # its table of contents stands at the end
        raise UserError(f"--ckpt_path {path}: not a checkpoint, or one that was cut short{_nearby(Path(path))}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"--ckpt_path {path}: refused, because it is damaged or holds more than tensors and plain values, "
            "which could run code when loaded; use a checkpoint that this project wrote"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"--ckpt_path {path}: cannot be read ({str(error).splitlines()[0]}){_nearby(Path(path))}"
        ) from error
    wanted = {"encoder", "state_dict", "hyper_parameters", "train_rows", "val_rows"}
    missing = sorted(wanted - content.keys()) if isinstance(content, dict) else ["a dict"]
    if missing:
        raise UserError(f"--ckpt_path {path}: not a checkpoint of BertClassifier (it lacks {', '.join(missing)})")
    if strange := [name for name in content["encoder"] if not ENCODER_FILES.fullmatch(str(name))]:
        raise UserError(
            f"--ckpt_path {path}: refused, because it holds {strange[0]!r}, which is no file of an encoder's config or "
            "tokenizer; use a checkpoint that this project wrote"
        )
    return cast(dict[str, Any], content)


def newest(folders: Iterable[Path]) -> Path | None:
    """Return the newest checkpoint that can be read in any of some folders; of a folder that is `last.ckpt`.

    A best checkpoint may be newer, if the run was killed between the two; but not all that belongs to it is done then.
    """

    def age(file: Path) -> int:
        return -file.stat().st_mtime_ns

    found = (sorted(folder.glob("*.ckpt"), key=age) for folder in folders)
    for written in sorted((written for written in found if written), key=lambda written: age(written[0])):
        for path in sorted(written, key=lambda file: file.name != run_folder.LAST):
            try:
                read(path)
            except UserError:
                continue
            return path
    return None


def _nearby(path: Path) -> str:
    """Name the newest other checkpoint of the folder."""
    found = [file for file in path.parent.glob("*.ckpt") if file != path]
    return f"; the newest other there is {max(found, key=lambda file: file.stat().st_mtime)}" if found else ""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it: what is there is whole, whatever happens meanwhile.

    It reads through `read`, so that evaluation takes the weights alone into memory, not the optimizer's state.

    Lightning stages the file in the system's temporary folder, so that its rename is a copy, and an unwritable
    target goes unnoticed (Lightning-AI/pytorch-lightning#21253, #20270).
    """

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return what `read` does, names of checkpoints beside it as they are now; neither argument makes a difference.

        Raises:
            UserError: As `read` does.
        """
        content = read(path)
        here = Path(path).absolute().parent
        for state in content.get("callbacks", {}).values():
            if "best_model_path" in state and Path(state["dirpath"]).name == here.name:  # the run may have been moved
                for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[name] = state[name] and str(here / Path(state[name]).name)
                state["best_k_models"] = {str(here / Path(k).name): v for k, v in state["best_k_models"].items()}
                state["dirpath"] = str(here)
        return content

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to the local file `path`.

        Raises:
            UserError: The disk is full, or the folder cannot be written; the older checkpoint at `path` is intact.
        """
        with files.replacing(Path(path), FULL) as partial:
            with partial.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # its zip writer hides the reason of a write that failed
                    cause = error.__context__
                    raise cause if isinstance(cause, OSError) else OSError(None, str(error)) from error
            with zipfile.ZipFile(partial) as archive:
                if damaged := archive.testzip():
                    raise OSError(None, f"{damaged} in it does not read back as written")
