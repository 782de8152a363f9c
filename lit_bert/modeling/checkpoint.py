"""What a checkpoint holds, read without running any of it."""

import pickle
import re
import zipfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from torch import Tensor

from lit_bert.errors import UserError, reason

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


def _nearby(path: Path) -> str:
    """Name the newest other checkpoint of the folder."""
    others = [file for file in path.parent.glob("*.ckpt") if file != path]
    return f"; the newest other there is {max(others, key=lambda file: file.stat().st_mtime)}" if others else ""
