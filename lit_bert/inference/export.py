"""A folder that `transformers` loads without this project: `python -m lit_bert.export --ckpt_path X --to DIR`."""

import argparse
import glob
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_bert.console import status
from lit_bert.errors import UserError, exit_on_user_error, reason
from lit_bert.evaluation.calibration import (
    apply_temperature,
    cross_validated_error,
    expected_calibration_error,
    fit_temperature,
    helps,
)
from lit_bert.files import display_path
from lit_bert.inference.card import render_model_card
from lit_bert.inference.checksums import write_checksums
from lit_bert.inference.predictor import SETTINGS, restore_model
from lit_bert.modeling.classes import class_names
from lit_bert.modeling.encoder import load_tokenizer, quiet_transformers
from lit_bert.training import run_dir
from lit_bert.training.checkpoint_io import Checkpoint, find_named_checkpoint

ONNX = "model.onnx"
TOLERANCE = 1e-4
"""How far a probability of the ONNX file may be from PyTorch's."""


def export(path: Path, folder: Path, metrics: Mapping[str, Any], calibrate: bool = False, onnx: bool = False) -> None:
    """Write a checkpoint's weights in safetensors, config, tokenizer and model card; all of it, or nothing.

    Args:
        path: The checkpoint.
        folder: A folder that does not exist yet, or is empty.
        metrics: For the card, those of "val", "test" or both; other keys are passed over.
        calibrate: Whether to divide logits by the temperature that fits the checkpoint's validation rows best.
        onnx: Whether to write `model.onnx` as well.
    """
    from safetensors import SafetensorError

    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"--to {folder}: cannot be read ({error.strerror})") from error
    if taken:
        raise UserError(f"--to {folder}: it is not empty; give a folder that is new or empty")
    checkpoint = Checkpoint.read(path)
    model = restore_model(checkpoint)
    model.config.architectures = [type(model).__name__]
    calibration = _calibrate(model, checkpoint) if calibrate else None
    data = checkpoint.data_hyper_parameters
    if data.get("text_pair_column") or data.get("long_text", "head") != "head":
        names = ("max_length", "long_text", "text_pair_column")  # for `Predictor`; transformers passes them over
        setattr(model.config, SETTINGS, {name: data.get(name) for name in names})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{glob.escape(folder.name)}-*"):  # by an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            partial = Path(temporary) / "export"
            with quiet_transformers():
                model.save_pretrained(partial)
            for name, content in checkpoint.tokenizer_files.items():
                (partial / Path(name).name).write_text(content, encoding="utf-8")
            if max_length := data.get("max_length"):  # what a pipeline truncates to
                file = partial / "tokenizer_config.json"
                tokenizer = {**json.loads(file.read_text(encoding="utf-8")), "model_max_length": max_length}
                file.write_text(json.dumps(tokenizer, indent=2), encoding="utf-8")
            splits = {split: metrics[split] for split in ("val", "test") if split in metrics}
            card = render_model_card(checkpoint, class_names(model.config), splits, calibration)
            (partial / "README.md").write_text(card, encoding="utf-8")
            for weights in partial.glob("*.safetensors"):  # safetensors makes them readable for their owner alone
                shutil.copymode(partial / "README.md", weights)
            if onnx:
                _, max_positions = load_tokenizer(partial, str(path))
                difference = _export_onnx(model, partial / ONNX, max_positions)
                status("onnx", f"largest difference of a probability from PyTorch: {difference:.1e}")
            write_checksums(partial)
            partial.replace(folder)
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or reason(error)
        raise UserError(f"--to {folder}: cannot be written ({cause})") from error


def _calibrate(model: Any, checkpoint: Checkpoint) -> dict[str, float]:
    """Fold a temperature into the last layer, and return it with the calibration error `before` and `after`."""
    outputs = checkpoint.val_outputs
    if not outputs:
        raise UserError(
            f"--calibrate: {checkpoint.path} was not written right after a validation, so it has no rows to fit to; "
            "take the best checkpoint, or that of an epoch's end"
        )
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    if last.out_features != model.config.num_labels:
        raise UserError(f"--calibrate: the last layer of a {model.config.model_type} model is not known here")
    probs, labels = outputs["probs"], outputs["labels"]
    temperature = fit_temperature(probs, labels)
    before, unseen = expected_calibration_error(probs, labels), cross_validated_error(probs, labels)
    if not helps(temperature, before, unseen):
        raise UserError(
            f"--calibrate: it would not help: of {len(labels):,} validation rows the calibration error is "
            f"{before:.4f}, and {unseen:.4f} at a temperature fitted on others of them (on all: {temperature:.3f}); "
            "export without it"
        )
    for parameter in last.parameters():
        parameter.data = parameter.data / temperature
    after = expected_calibration_error(apply_temperature(probs, temperature), labels)
    errors = f"calibration error on the validation rows {before:.4f} before, {after:.4f} after"
    status("calib", f"temperature {temperature:.3f}; {errors}")
    return {"temperature": temperature, "before": before, "after": after}


def _export_onnx(model: Any, path: Path, max_positions: int) -> float:
    """Write one for sentences of up to `max_positions` tokens; return how far its probabilities are from PyTorch's."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("--onnx: install what it needs with pip install '.[onnx]' -c constraints.txt") from error
    ids = torch.randint(0, model.config.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=max_positions)}
    options: dict[str, Any] = {"input_names": list(inputs), "output_names": ["logits"], "dynamo": True}
    options |= {"dynamic_shapes": dict.fromkeys(inputs, axes), "external_data": False, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about its own ways
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # or it says that there is no torchvision
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


def load_metrics(path: Path) -> dict[str, Any]:
    """Return the metrics of a checkpoint's splits from its run's metrics.json; empty if they are of another one."""
    run = run_dir.run_dir_of(path)
    try:
        content = json.loads((run / run_dir.METRICS).read_text(encoding="utf-8")) if run else {}
        if run is None or not content.get("checkpoint") or not (run / content["checkpoint"]).samefile(path):
            return {}
    except (OSError, ValueError):
        return {}
    return {split: content[split] for split in ("val", "test") if split in content}


def resolve_checkpoint(path: Path) -> Path:
    """Return the file that "best" or "last" names, of the newest run in runs/; any other path as it is."""
    checkpoint = find_named_checkpoint(str(path), Path("runs")) if str(path) in ("best", "last") else None
    return checkpoint.path if checkpoint else path


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; None takes the process's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m lit_bert.export",
        description='Write a checkpoint as a folder that transformers.pipeline("text-classification", DIR) loads.',
    )
    where = "a checkpoint that `fit` wrote; best or last takes that of the newest run in runs/"
    parser.add_argument("--ckpt_path", metavar="X", type=Path, required=True, help=where)
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder, which must be new or empty")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx, too: pip install '.[onnx]'")
    calibrate = "make probabilities fit the validation rows, by a temperature that is folded into the last layer"
    parser.add_argument("--calibrate", action="store_true", help=calibrate)
    options = parser.parse_args(args)
    with exit_on_user_error():
        path = resolve_checkpoint(options.ckpt_path)
        export(path, options.to, load_metrics(path), options.calibrate, options.onnx)
    status("export", display_path(options.to))
