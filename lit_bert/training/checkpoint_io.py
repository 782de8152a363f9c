"""Checkpoint files: written whole or not at all, read without running what they hold."""

import pickle
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from torch import Tensor

from lit_bert.errors import DISK_FULL_ADVICE, UserError, reason
from lit_bert.files import atomic_write
from lit_bert.training import run_dir

_TOKENIZER_FILES = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt|chat_template\.jinja"
)
"""Files of a tokenizer that may travel in a checkpoint: all of them are data, none is code."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of `BertClassifier`, which suffices to go on training and to predict: nothing else is needed.

    Args:
        path: The file.
        state_dict: Weights, mapped from the file, not copied.
        hyper_parameters: What the module was made with.
        encoder_config: The content of the encoder's config.json, class names included.
        tokenizer_files: The texts of the tokenizer's files by name; empty if it was trained on another data module.
        data_hyper_parameters: What the data module was made with.
        val_outputs: The validation rows as predicted by these weights; empty if they were not validated.
        own_forward: Whether a subclass with a `forward` of its own wrote it.
        epoch: Epochs done.
        global_step: Optimizer steps done.
    """

    path: Path
    state_dict: dict[str, Tensor]
    hyper_parameters: dict[str, Any]
    encoder_config: dict[str, Any]
    tokenizer_files: dict[str, str] = field(default_factory=dict)
    data_hyper_parameters: dict[str, Any] = field(default_factory=dict)
    val_outputs: dict[str, Tensor] = field(default_factory=dict)
    own_forward: bool = False
    epoch: int = 0
    global_step: int = 0

    @classmethod
    def read(cls, path: _PATH) -> "Checkpoint":
        """Read a file.

        Raises:
            UserError: It is missing, damaged, not such a checkpoint, a pickle that wants to run code, or it holds files
                that are no tokenizer's.
        """
        content = read_safely(path)
        verify(Path(path))
        hyper_parameters: Any = content.get("hyper_parameters")
        config = hyper_parameters.get("encoder_config") if isinstance(hyper_parameters, dict) else None
        parts: dict[str, tuple[Any, type]] = {
            "encoder_config": (config, dict),
            "state_dict": (content.get("state_dict"), dict),
        }
        parts |= {name: (content.get(name), int) for name in ("epoch", "global_step")}
        optional = ("tokenizer_files", "datamodule_hyper_parameters", "val_outputs", "callbacks")
        parts |= {name: (content.get(name, {}), dict) for name in optional}
        if missing := sorted(name for name, (value, kind) in parts.items() if not isinstance(value, kind)):
            raise UserError(f"--ckpt_path {path}: not a checkpoint of BertClassifier (it lacks {', '.join(missing)})")
        files = content.get("tokenizer_files", {})
        if strange := [name for name, text in files.items() if not _is_tokenizer_file(name, text)]:
            raise UserError(
                f"--ckpt_path {path}: refused, because it holds {strange[0]!r}, which is no file of a tokenizer; use a "
                "checkpoint that this project wrote"
            )
        return cls(
            Path(path),
            content["state_dict"],
            {name: value for name, value in hyper_parameters.items() if name != "encoder_config"},
            hyper_parameters["encoder_config"],
            files,
            content.get("datamodule_hyper_parameters", {}),
            content.get("val_outputs", {}),
            content.get("own_forward", False),
            content["epoch"],
            content["global_step"],
        )


def _is_tokenizer_file(name: Any, text: Any) -> bool:
    return isinstance(text, str) and _TOKENIZER_FILES.fullmatch(str(name)) is not None


def read_safely(path: _PATH) -> dict[str, Any]:
    """Return the content of any checkpoint that Lightning writes, its tensors mapped from the file.

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or a pickle that wants to run code.
    """
    if Path(path).is_dir():
        raise UserError(f"--ckpt_path {path}: this is a folder, which only `predict --input` takes; give a .ckpt file")
    if not Path(path).is_file():
        raise UserError(f"--ckpt_path {path}: there is no such file{_nearby(Path(path))}")
    if not zipfile.is_zipfile(path):  # its table of contents stands at the end
        raise UserError(f"--ckpt_path {path}: not a checkpoint, or one that was cut short{_nearby(Path(path))}")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise OSError("it was packed anew")  # its tensors, which are mapped, would be noise
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"--ckpt_path {path}: refused, because it is damaged or holds more than tensors and plain values, "
            "which could run code when loaded; use a checkpoint that this project wrote"
        ) from error
    except Exception as error:  # whatever a damaged archive or pickle makes torch raise
        raise UserError(f"--ckpt_path {path}: cannot be read ({reason(error)}){_nearby(Path(path))}") from error
    if not isinstance(content, dict):
        raise UserError(f"--ckpt_path {path}: not a checkpoint")
    return content


@cache
def _verify(path: Path, size: int, changed: int) -> str:
    """Return what is wrong with an archive's content, or nothing."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    return f"{damaged} in it is damaged" if damaged else ""


def verify(path: Path) -> None:
    """Compare a checkpoint's content with its checksums, once in a process; that takes a second for about 1 GiB.

    Raises:
        UserError: It is damaged.
    """
    state = path.stat()
    try:
        wrong = _verify(path.absolute(), state.st_size, state.st_mtime_ns)
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        wrong = reason(error)
    if wrong:
        raise UserError(f"--ckpt_path {path}: cannot be read ({wrong}){_nearby(path)}")


def find_newest_checkpoint(folders: Iterable[Path]) -> Checkpoint | None:
    """Return the newest checkpoint that can be read in any of some folders; of a folder that is `last.ckpt`.

    A best checkpoint may be newer, if the run was killed between the two; but not all that belongs to it is done then.
    """

    def age(file: Path) -> int:
        return -file.stat().st_mtime_ns

    listed = (sorted(folder.glob("*.ckpt"), key=age) for folder in folders)
    for files in sorted((files for files in listed if files), key=lambda files: age(files[0])):
        for path in sorted(files, key=lambda file: file.name != run_dir.LAST):
            try:
                return Checkpoint.read(path)
            except UserError:
                continue
    return None


def find_named_checkpoint(name: str, root: Path) -> Checkpoint | None:
    """Return the newest checkpoint of the runs in a folder for "last", for "best" the best of that checkpoint's run."""
    newest = find_newest_checkpoint(root.absolute().glob(f"*/{run_dir.CHECKPOINTS}"))
    if newest is None or name == "last":
        return newest
    states = AtomicCheckpointIO().load_checkpoint(newest.path).get("callbacks", {}).values()
    paths = (state.get("best_model_path") for state in states if isinstance(state, dict))
    return next((Checkpoint.read(path) for path in paths if path and Path(path).is_file()), None)


def _nearby(path: Path) -> str:
    """Name the newest other checkpoint of the folder."""
    others = [file for file in path.parent.glob("*.ckpt") if file != path]
    return f"; the newest other there is {max(others, key=lambda file: file.stat().st_mtime)}" if others else ""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it: what is there is whole, whatever happens meanwhile.

    It reads without copying, so that evaluation takes the weights alone into memory, not the optimizer's state.

    Lightning stages the file in the system's temporary folder, so that its rename is a copy, and an unwritable
    target goes unnoticed (Lightning-AI/pytorch-lightning#21253, #20270).
    """

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return what `read_safely` does, names of checkpoints beside it as they are now.

        Raises:
            UserError: As `read_safely` does.
        """
        content = read_safely(path)
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
