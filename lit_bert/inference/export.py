"""A folder that `transformers` loads without this project."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import nn

from lit_bert.console import status
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import UserError, reason
from lit_bert.evaluation import calibration
from lit_bert.files import display_path, next_free_path
from lit_bert.inference.card import render_model_card
from lit_bert.inference.onnx import INT8, ONNX, compare_accuracy, quantize, write_onnx
from lit_bert.inference.predictor import SETTINGS, restore_model
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.classes import class_names, name_classes
from lit_bert.modeling.encoder import quiet_transformers
from lit_bert.modeling.tokenizer import load_tokenizer
from lit_bert.module import BertClassifier
from lit_bert.run import run_dir
from lit_bert.run.checkpoint_io import find_named_checkpoint

MAX_LOSS = 0.01
"""Accuracy that int8 may cost."""


def export(
    path: Path,
    folder: Path,
    metrics: Mapping[str, Any],
    calibrate: bool = False,
    onnx: bool = False,
    int8: bool = False,
    force: bool = False,
) -> None:
    """Write a checkpoint's weights in safetensors, config, tokenizer and model card; all of it, or nothing.

    Args:
        path: The checkpoint.
        folder: A folder that does not exist yet, or is empty.
        metrics: For the card, those of "val", "test" or both; other keys are passed over.
        calibrate: Whether to divide logits by the temperature that fits the checkpoint's validation rows best.
        onnx: Whether to write `model.onnx` as well.
        int8: Whether to write `model_int8.onnx` as well, and its accuracy on the checkpoint's validation rows.
        force: Whether to write that also if it costs more than a point of accuracy.
    """
    from safetensors import SafetensorError

    target = folder.absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"--to {folder}: it is not empty; give a folder that is new or empty")
    except OSError as error:
        raise UserError(f"--to {folder}: cannot be read ({error.strerror})") from error
    checkpoint = Checkpoint.read(path)
    model = restore_model(checkpoint)
    model.config.architectures = [type(model).__name__]
    calibrated = _calibrate(model, checkpoint) if calibrate else None
    data = checkpoint.data_hyper_parameters
    if data.get("text_pair_column") or data.get("long_text", "head") != "head":
        names = ("max_length", "long_text", "text_pair_column")  # for `Predictor`; transformers passes them over
        model.config.update({SETTINGS: {name: data.get(name) for name in names}})
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
        partial.mkdir(parents=True)
        with quiet_transformers():
            model.save_pretrained(partial)
        for name, content in checkpoint.tokenizer_files.items():
            (partial / Path(name).name).write_text(content, encoding="utf-8")
        if max_length := data.get("max_length"):  # what a pipeline truncates to
            file = partial / "tokenizer_config.json"
            tokenizer = {**json.loads(file.read_text(encoding="utf-8")), "model_max_length": max_length}
            file.write_text(json.dumps(tokenizer, indent=2), encoding="utf-8")
        accuracy = _write_onnx(model, checkpoint, partial, onnx, int8, force) if onnx or int8 else None
        splits = {split: metrics[split] for split in ("val", "test") if split in metrics}
        card = render_model_card(checkpoint, class_names(model.config), splits, calibrated, accuracy)
        (partial / "README.md").write_text(card, encoding="utf-8")
        for weights in partial.glob("*.safetensors"):  # safetensors makes them readable for their owner alone
            shutil.copymode(partial / "README.md", weights)
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) else None
        raise UserError(f"--to {folder}: cannot be written ({cause or reason(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _calibrate(model: Any, checkpoint: Checkpoint) -> dict[str, float]:
    """Fold a temperature into the last layer, and return it with the calibration error `before` and `after`."""
    if not checkpoint.val_outputs:
        raise UserError(
            f"--calibrate: {checkpoint.path} was not written right after a validation, so it has no rows to fit to; "
            "take the best checkpoint, or that of an epoch's end"
        )
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    if last.out_features != model.config.num_labels:
        raise UserError(f"--calibrate: the last layer of a {model.config.model_type} model is not known here")
    probs, labels = checkpoint.val_outputs["probs"], checkpoint.val_outputs["labels"]
    temperature, error_of = calibration.fit_temperature(probs, labels), calibration.expected_calibration_error
    before, (unseen, helps) = error_of(probs, labels), calibration.cross_validate(probs, labels)
    if not helps:
        how = f"at the temperature of their other half (calibration error {before:.4f} before, {unseen:.4f} after)"
        raise UserError(f"--calibrate: it would not help {len(labels):,} validation rows {how}; export without it")
    for parameter in last.parameters():
        parameter.data = parameter.data / temperature
    after = error_of(calibration.apply_temperature(probs, temperature), labels)
    figures = f"calibration error on the validation rows {before:.4f} before, {after:.4f} after"
    status("calib", f"temperature {temperature:.3f}; {figures}")
    return {"temperature": temperature, "before": before, "after": after}


def _write_onnx(
    model: Any, checkpoint: Checkpoint, folder: Path, onnx: bool, int8: bool, force: bool
) -> dict[str, float] | None:
    """Write ONNX files into an exported folder; return what `compare_accuracy` says of int8, if that is asked for."""
    max_positions = load_tokenizer(folder, str(checkpoint.path)).model_max_length
    pairs = bool(checkpoint.data_hyper_parameters.get("text_pair_column"))
    difference = write_onnx(model, folder / ONNX, max_positions, pairs)
    status("onnx", f"largest difference of a probability from PyTorch: {difference:.1e}")
    if not int8:
        return None
    quantize(folder / ONNX, folder / INT8)
    accuracy = compare_accuracy(model, folder / INT8, _val_dataloader(model, checkpoint))
    before, after = accuracy["before"], accuracy["after"]
    figures = f"{accuracy['rows']:,} validation rows {before:.4f} before, {after:.4f} after"
    status("int8", f"accuracy on {figures}")
    if round(before - after, 6) > MAX_LOSS and not force:
        raise UserError(
            f"--int8: it loses {100 * (before - after):.1f} points of accuracy (on {figures}); export with --onnx, or "
            "with --force all the same"
        )
    if not onnx:
        (folder / ONNX).unlink()
    return accuracy


def _val_dataloader(model: Any, checkpoint: Checkpoint) -> Any:
    """Return batches of the checkpoint's validation rows."""
    arguments = {**checkpoint.data_hyper_parameters, "tokenizer": str(checkpoint.path)}
    try:
        data = TextClassificationDataModule(**arguments)
    except TypeError as error:  # it has other arguments
        kind = TextClassificationDataModule.__name__
        raise UserError(
            f"--int8: {checkpoint.path} was trained on another data module than {kind}, so its validation rows cannot "
            "be read; export with --onnx"
        ) from error
    data.prepare_data()
    data.setup("validate")
    name_classes(model.config, data, new_head=False)  # it refuses data whose classes are others by now
    return data.val_dataloader()


def export_best(trainer: Trainer, run: Path, results: Mapping[str, Any]) -> None:
    """Export the best checkpoint of a run that has ended, on rank 0; nothing if there is none, or it is not a BERT's.

    `run` is the run's folder, and `results` are what its metrics.json holds.
    """
    best = results.get("checkpoint")
    own_forward = type(trainer.lightning_module).forward is not BertClassifier.forward  # transformers does not have it
    if trainer.is_global_zero and best and not own_forward:
        folder = next_free_path(run / run_dir.EXPORT)
        export(run / best, folder, results)
        status("export", f'{display_path(folder)}, for transformers.pipeline("text-classification", ...)')


def load_metrics(path: Path) -> dict[str, Any]:
    """Return the metrics of a checkpoint's splits from its run's metrics.json; empty if they are of another one."""
    run = run_dir.run_dir_of(path)
    try:
        content = json.loads((run / run_dir.METRICS).read_text(encoding="utf-8")) if run else {}
        is_best = run and content.get("checkpoint") and (run / content["checkpoint"]).samefile(path)
    except (OSError, ValueError):
        return {}
    return {split: content[split] for split in ("val", "test") if is_best and split in content}


def resolve_checkpoint(path: Path) -> Path:
    """Return the file that "best" or "last" names, of the newest run in runs/; any other path as it is."""
    checkpoint = find_named_checkpoint(str(path), Path("runs")) if str(path) in ("best", "last") else None
    if checkpoint is None:
        return path
    status("model", f"--ckpt_path {path} is {display_path(checkpoint.path)}", err=True)
    return checkpoint.path
