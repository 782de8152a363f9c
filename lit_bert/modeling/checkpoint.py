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

_OPTIONAL = ("tokenizer_files", "datamodule_hyper_parameters", "val_outputs", "callbacks")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of `BertClassifier`, which suffices to go on training and to predict: nothing else is needed.

    Weights are mapped from the file. `encoder_config` is the content of the encoder's config.json, with class names;
    `tokenizer_files` are texts by name, none if it was trained on another data module. `val_outputs` are the validation
    rows as predicted by these weights, none if they were not validated. `own_forward` tells that a subclass with a
    `forward` of its own wrote it. `epoch` and `global_step` are epochs and optimizer steps done.
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
        """Read a file, or raise a UserError as `read_safely` does, also if it holds files that are no tokenizer's."""
        content = {**{name: {} for name in _OPTIONAL}, **read_safely(path)}
        state = Path(path).stat()
        if damage := _damage(Path(path).absolute(), state.st_size, state.st_mtime_ns):
            raise UserError(f"--ckpt_path {path}: cannot be read ({damage}){_nearby(Path(path))}")
        hyper_parameters = content.get("hyper_parameters")
        if isinstance(hyper_parameters, dict):
            content["encoder_config"] = hyper_parameters.get("encoder_config")
        kinds = {**dict.fromkeys(("encoder_config", "state_dict", *_OPTIONAL), dict), "epoch": int, "global_step": int}
        if missing := sorted(name for name, kind in kinds.items() if not isinstance(content.get(name), kind)):
            raise UserError(f"--ckpt_path {path}: not a checkpoint of BertClassifier (it lacks {', '.join(missing)})")
        files, given = content["tokenizer_files"], dict(content["hyper_parameters"])
        strange = [name for name in files if not _TOKENIZER_FILES.fullmatch(str(name)) or type(files[name]) is not str]
        if strange:
            raise UserError(
                f"--ckpt_path {path}: refused, because it holds {strange[0]!r}, which is no file of a tokenizer; use a "
                "checkpoint that this project wrote"
            )
        return cls(
            path=Path(path),
            state_dict=content["state_dict"],
            encoder_config=given.pop("encoder_config"),
            hyper_parameters=given,
            tokenizer_files=files,
            data_hyper_parameters=content["datamodule_hyper_parameters"],
            val_outputs=content["val_outputs"],
            own_forward=content.get("own_forward", False),
            epoch=content["epoch"],
            global_step=content["global_step"],
        )


@cache
def _damage(path: Path, size: int, changed: int) -> str:
    """Compare an archive's content with its checksums, once in a process, at about 1 GiB/s; return what is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        return reason(error)
    return f"{damaged} in it is damaged" if damaged else ""


def read_safely(path: _PATH) -> dict[str, Any]:
    """Return the content of any checkpoint that Lightning writes, its tensors mapped from the file.

    A UserError tells that it is missing, damaged, no checkpoint, or a pickle that wants to run code.
    """
    where, file = f"--ckpt_path {path}", Path(path)
    if file.is_dir():
        raise UserError(f"{where}: this is a folder, which only `predict --input` takes; give a .ckpt file")
    if not file.is_file():
        raise UserError(f"{where}: there is no such file{_nearby(file)}")
    if not zipfile.is_zipfile(file):  # its table of contents stands at the end
        raise UserError(f"{where}: not a checkpoint, or one that was cut short{_nearby(file)}")
    try:
        with zipfile.ZipFile(file) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise OSError("it was packed anew")  # its tensors, which are mapped, would be noise
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{where}: refused, because it is damaged or holds more than tensors and plain values, which could run "
            "code when loaded; use a checkpoint that this project wrote"
        ) from error
    except Exception as error:  # whatever a damaged archive or pickle makes torch raise
        raise UserError(f"{where}: cannot be read ({reason(error)}){_nearby(file)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: not a checkpoint")
    return content


def _nearby(path: Path) -> str:
    """Name the newest other checkpoint of the folder."""
    others = [file for file in path.parent.glob("*.ckpt") if file != path]
    return f"; the newest other there is {max(others, key=lambda file: file.stat().st_mtime)}" if others else ""
