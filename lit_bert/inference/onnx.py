"""The classifier as an ONNX file, in float32 or int8: written from PyTorch's, and run by onnxruntime on a CPU.

Legend: B rows, T tokens, C classes.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_bert.errors import UserError, reason

ONNX, INT8 = "model.onnx", "model_int8.onnx"
"""Names of the files in an exported folder."""

TOLERANCE = 1e-4
"""How far a probability of the file in float32 may be from PyTorch's."""

BATCH_TOKENS = 1024
"""Tokens per batch, padding included, at most: more are not faster, and int8 has one scale for all of a batch."""


class OnnxClassifier:
    """Logits from the ONNX file of an exported folder; from the one in int8 if it has both.

    Args:
        folder: The folder.

    Raises:
        UserError: There is no such file, it cannot be read, or onnxruntime is not installed.
    """

    def __init__(self, folder: Path) -> None:
        files = [file for name in (INT8, ONNX) if (file := folder / name).is_file()]
        if not files:
            raise UserError(f"{folder}: it has neither {INT8} nor {ONNX}; export it with --int8 or --onnx")
        onnxruntime = _import("onnxruntime", "--backend onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other processes may want the cores
        options.log_severity_level = 3  # errors
        try:
            providers = ["CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(str(files[0]), options, providers=providers)
        except Exception as error:  # onnxruntime has a type of its own for each way a file can be damaged
            raise UserError(f"{files[0]}: cannot be loaded ({reason(error)}); export it again") from error
        self.names = [of.name for of in self.session.get_inputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits, shape (B, C), of inputs as `collate` makes them, each of shape (B, T)."""
        like = inputs["input_ids"]
        missing = {"attention_mask": torch.ones_like(like), "token_type_ids": torch.zeros_like(like)}
        given = {**missing, **inputs}
        [logits] = self.session.run(["logits"], {name: given[name].numpy() for name in self.names})
        return torch.from_numpy(logits)


def write_onnx(model: Any, path: Path, max_positions: int, pairs: bool) -> float:
    """Write a file for sentences of up to `max_positions` tokens, and return how far its probabilities are off.

    Args:
        model: A classifier of transformers, in evaluation mode.
        path: The file.
        max_positions: Tokens of a sequence at most.
        pairs: Whether it is for pairs of texts, which some encoders are told apart by `token_type_ids`.

    Raises:
        UserError: What it needs is not installed, the model cannot be exported, or its probabilities differ.
    """
    onnxruntime = _import("onnxruntime", "--onnx")
    _import("onnxscript", "--onnx")
    ids = torch.randint(0, model.config.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
    if pairs and getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
        inputs["token_type_ids"][:, 3:] = 1
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=max_positions)}
    options: dict[str, Any] = {"input_names": list(inputs), "output_names": ["logits"], "dynamo": True}
    options |= {"dynamic_shapes": dict.fromkeys(inputs, axes), "external_data": False, "verbose": False}
    with _quiet_exporters():
        try:
            torch.onnx.export(model, (), str(path), kwargs=inputs, **options)
        except Exception as error:  # the exporter raises many things at what it does not know
            raise UserError(f"--onnx: a {model.config.model_type} model cannot be exported: {reason(error)}") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference = 0.0
    for rows, tokens in ((3, 7), (1, 4)):
        part = {name: value[:rows, :tokens] for name, value in inputs.items()}
        [logits] = session.run(["logits"], {name: value.numpy() for name, value in part.items()})
        with torch.inference_mode():
            expected = model(**part).logits.softmax(dim=-1)
        difference = max(difference, float((torch.from_numpy(logits).softmax(dim=-1) - expected).abs().max()))
    if difference > TOLERANCE:
        raise UserError(f"--onnx: its probabilities differ by {difference:.1e} from PyTorch's; nothing was written")
    return difference


def quantize(source: Path, path: Path) -> None:
    """Write a copy of an ONNX file whose weights are int8, with a scale for each output channel.

    Activations become int8 while it runs, with one scale for a whole batch: a text's probabilities depend a little on
    the texts it shares a batch with.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet_exporters():
        quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True)


def _import(name: str, option: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"{option}: install what it needs with pip install '.[onnx]' -c constraints.txt") from error


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Keep torch's exporter from warning about its own ways, and onnxruntime from advice on others of quantising."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # or it says that there is no torchvision
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
