"""The classifier as an ONNX file for onnxruntime on a CPU, in float32 or int8: written, and compared with PyTorch.

Legend: B rows, T tokens, C classes.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_bert.errors import UserError, reason
from lit_bert.modeling.forward import logits_of

ONNX, INT8 = "model.onnx", "model_int8.onnx"
"""Names of the files in an exported folder."""

TOLERANCE = 1e-4
"""How far a probability of the file in float32 may be from PyTorch's."""


def write_onnx(model: Any, path: Path, max_positions: int, pairs: bool) -> float:
    """Write a file for sentences of up to `max_positions` tokens, and return how far its probabilities are off.

    The model, a classifier of transformers, is in evaluation mode; `pairs` of texts are told apart by `token_type_ids`
    where the encoder has them.

    Raises:
        UserError: What it needs is not installed, the model cannot be exported, or its probabilities differ.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("--onnx: install what it needs with pip install '.[onnx]' -c constraints.txt") from error
    ids = torch.randint(0, model.config.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["attention_mask"][1, 4:] = 0
    if pairs and model.config.to_dict().get("type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.zeros_like(ids)
        inputs["token_type_ids"][:, 3:] = 1
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=max_positions)}
    options: dict[str, Any] = {"input_names": list(inputs), "output_names": ["logits"], "dynamo": True}
    options |= {"dynamic_shapes": dict.fromkeys(inputs, axes), "external_data": False, "verbose": False}
    with _quiet_exporters():
        try:
            torch.onnx.export(model, (), str(path), kwargs=inputs, **options)
            session, difference = _open(path), 0.0
            for rows, tokens in ((3, 7), (1, 4)):
                batch = {name: value[:rows, :tokens] for name, value in inputs.items()}
                with torch.inference_mode():
                    expected = model(**batch).logits.softmax(dim=-1)
                difference = max(difference, float((_run(session, batch).softmax(dim=-1) - expected).abs().max()))
        except Exception as error:  # exporter and runtime raise many things at what they do not know
            problem = reason(error).partition(". ")[0]
            raise UserError(f"--onnx: a {model.config.model_type} model cannot be exported ({problem})") from error
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


def compare_accuracy(model: Any, path: Path, batches: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the number of `rows`, and the accuracy of a model `before` and of an ONNX file `after`.

    `batches` are as `collate` makes them.
    """
    session, rows, before, after = _open(path), 0, 0, 0
    for batch in batches:
        labels, inputs = batch["labels"], {name: batch[name] for name in batch.keys() - {"labels", "index", "weights"}}
        with torch.inference_mode():
            logits = logits_of(model, {**inputs})
        rows += len(labels)
        before += int((logits.argmax(dim=-1) == labels).sum())
        after += int((_run(session, inputs).argmax(dim=-1) == labels).sum())
    return {"rows": rows, "before": before / rows, "after": after / rows}


def _open(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _run(session: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return logits, shape (B, C), of inputs of shape (B, T); a mask is all ones, and token types zeros, if missing."""
    ids = inputs["input_ids"]
    given = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids), **inputs}
    [logits] = session.run(["logits"], {node.name: given[node.name].numpy() for node in session.get_inputs()})
    return torch.from_numpy(logits)


@contextmanager
def _quiet_exporters() -> Iterator[None]:
    """Hide what torch's exporter says of itself, graphs included, and advice of onnxruntime on other ways."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # or it says that there is no torchvision
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
