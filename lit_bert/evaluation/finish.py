"""What follows `fit`: the best checkpoint is tested, its results are printed, written and logged."""

import os
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, distributed

from lit_bert.console import status
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.evaluation import report, tensorboard
from lit_bert.evaluation.splits import calibration_metrics, evaluate_splits
from lit_bert.files import display_path
from lit_bert.modeling.outputs import SplitOutputs, gather_outputs
from lit_bert.module import BertClassifier
from lit_bert.training import run_dir
from lit_bert.training.checkpoint_io import AtomicCheckpointIO, Checkpoint
from lit_bert.training.throughput import Throughput


def finish_fit(
    trainer: Trainer,
    module: BertClassifier,
    data: TextClassificationDataModule,
    folder: Path,
    seconds: float,
    test: bool = True,
    projector: bool = False,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate what a run is to be judged by: its best checkpoint, or its weights as they are if there is none.

    Every rank calls it; rank 0 prints the tables, writes `metrics.json` and fills the loggers' pages.

    Args:
        trainer: Its `fit` has ended.
        module: What was trained.
        data: On which data.
        folder: The run's folder.
        seconds: How long training took.
        test: Whether the test split is looked at.
        projector: Whether the validation rows' [CLS] vectors are logged.
        params: Hyperparameters for TensorBoard's HParams.

    Returns:
        What `metrics.json` holds: by split the metrics, `calibration`, `checkpoint` (relative to the folder; None if
        there is no best one), `fit_seconds`, `throughput`, and `seed`.
    """
    best = best_checkpoint(trainer)
    averaged = any(isinstance(callback, StochasticWeightAveraging) for callback in _callbacks(trainer))
    evaluator = trainer
    if not module.epoch_outputs and not (distributed.is_available() and distributed.is_initialized()):
        evaluator = _local_trainer(trainer)  # processes that were spawned to train are gone, with what they saw
    if averaged:  # the average is made when training ends: no checkpoint has it
        best = None
        evaluator.validate(module, datamodule=data, verbose=False)
    val = cast(SplitOutputs | None, Checkpoint.read(best).val_outputs if best else module.epoch_outputs.get("val"))
    outputs = {"val": val}
    if test:
        evaluator.test(module, datamodule=data, ckpt_path=best, verbose=False)
        outputs["test"] = module.epoch_outputs.get("test")
    embeddings = {}
    if projector and outputs["val"]:
        limit = int(outputs["val"]["index"][: tensorboard.MAX_PROJECTED][-1]) + 1
        embeddings = _capture_embeddings(evaluator, module, data, best, limit)
    if not trainer.is_global_zero:
        return {}
    seen: dict[str, SplitOutputs] = {split: rows for split, rows in outputs.items() if rows}
    splits = evaluate_splits(module, data, seen)
    report.print_results(splits)
    calibration = calibration_metrics(seen["val"], seen["test"]) if len(seen) == 2 else {}
    throughput = next((item for item in _callbacks(trainer) if isinstance(item, Throughput)), None)
    results = {
        **splits,
        "calibration": calibration,
        "checkpoint": best and os.path.relpath(best, folder),
        "fit_seconds": round(seconds, 1),
        "throughput": throughput.summary(trainer) if throughput else {},
        "seed": (params or {}).get("seed"),
    }
    report.write_json(folder / run_dir.METRICS, results)
    step, names = trainer.global_step, module.class_names
    for split, rows in seen.items():
        if split != "val":  # of these TensorBoardCallback has logged
            tensorboard.log_errors(trainer, split, rows, data.texts, names, step)
        temperature = calibration.get("temperature")
        tensorboard.log_figures(trainer, split, rows, splits[split]["slices"], names, temperature, step)
    if embeddings:
        tensorboard.log_projector(trainer, seen["val"], embeddings, data.texts, names, step)
    tensorboard.log_final(trainer, splits, params or {}, step)
    _print_summary(trainer, results, folder, averaged)
    return results


def _capture_embeddings(
    trainer: Trainer, module: BertClassifier, data: Any, ckpt_path: str | None, limit: int
) -> dict[str, Tensor]:
    """Return the [CLS] vectors of validation rows with an `index` below `limit`, of all ranks."""
    capture = tensorboard.CaptureEmbeddings(limit)
    _callbacks(trainer).append(capture)
    data.predict_split = "val"
    trainer.predict(module, datamodule=data, ckpt_path=ckpt_path, return_predictions=False)
    _callbacks(trainer).remove(capture)
    return gather_outputs(capture.batches, deduplicate=True)


def evaluate(
    trainer: Trainer, module: BertClassifier, data: TextClassificationDataModule, split: str, ckpt_path: str | None
) -> dict[str, Any]:
    """Evaluate a checkpoint on "val" or "test", print the tables, and return the metrics by the split; on rank 0.

    Raises:
        UserError: No row was evaluated.
    """
    run = trainer.test if split == "test" else trainer.validate
    run(module, datamodule=data, ckpt_path=ckpt_path, verbose=False)
    outputs = module.epoch_outputs.get(split)
    if not outputs:
        raise UserError(f"--trainer.limit_{split}_batches: nothing was evaluated")
    if not trainer.is_global_zero:
        return {}
    results = evaluate_splits(module, data, {split: outputs})
    report.print_results(results)
    return results


def best_checkpoint(trainer: Trainer) -> str | None:
    """Return the path of a run's best checkpoint, or None if there is none, or it was removed."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    path = callbacks[0].best_model_path if callbacks else ""
    return path if path and Path(path).is_file() else None


def _callbacks(trainer: Trainer) -> list[Any]:
    return cast(list[Any], cast(Any, trainer).callbacks)


def _local_trainer(trainer: Trainer) -> Trainer:
    return Trainer(
        accelerator=trainer.strategy.root_device.type,
        devices=1,
        precision=cast(Any, trainer).precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
    )


def _print_summary(trainer: Trainer, results: dict[str, Any], folder: Path, averaged: bool) -> None:
    if speed := results["throughput"]:
        status(
            "speed",
            f"{speed['samples_per_sec']:,.0f} sentences/s, {speed['tokens_per_sec']:,.0f} tokens/s, "
            f"{speed['padding_waste']:.1%} padding, {speed['mfu']:.0%} of the device's matrix rate",
        )
    if results["calibration"]:
        status(
            "trust",
            "calibration error of test rows {test_ece:.3f}, and {test_ece_calibrated:.3f} at temperature "
            "{temperature:.2f}: python -m lit_bert.export --calibrate".format(**results["calibration"]),
        )
    status("run", f"{display_path(folder)} (trained in {results['fit_seconds']:.0f} s)")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            inside = Path(logger.log_dir).absolute().is_relative_to(folder.absolute())
            status("look", f"tensorboard --logdir {display_path(folder.parent if inside else logger.root_dir)}")
    if results["checkpoint"]:
        path = display_path(folder / results["checkpoint"])
        status("test", f"python train.py test --ckpt_path {path}")
        status("predict", f"python train.py predict --ckpt_path {path}")
    elif averaged:
        status("best", "the average of weights is in no checkpoint of an epoch")
    elif not any(isinstance(callback, ModelCheckpoint) for callback in trainer.checkpoint_callbacks):
        status("best", "there is no best checkpoint: --trainer.enable_checkpointing is false")
    elif "val" not in results:
        status("best", "there is no best checkpoint: training ended before a validation")
    else:
        status("best", "there is no best checkpoint: --checkpoint.save_top_k is 0, or it was removed")
