"""What follows `fit`: the best checkpoint is tested, its results are printed, written and logged."""

import os
import shlex
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed

from lit_bert.callbacks import tensorboard
from lit_bert.callbacks.label_review import LabelReview
from lit_bert.callbacks.throughput import Throughput
from lit_bert.console import status
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.evaluation import report
from lit_bert.evaluation.calibration import calibration_metrics, helps
from lit_bert.evaluation.hints import hints
from lit_bert.evaluation.hparams import hyperparameters
from lit_bert.evaluation.metrics import evaluate_splits
from lit_bert.files import display_path, next_free_path
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.outputs import SplitOutputs
from lit_bert.module import BertClassifier
from lit_bert.run import run_dir
from lit_bert.run.checkpoint_io import AtomicCheckpointIO
from lit_bert.run.openmp import LoadMonitor


def finish_fit(
    trainer: Trainer,
    module: BertClassifier,
    data: TextClassificationDataModule,
    folder: Path,
    seconds: float,
    test: bool = True,
    projector: bool = False,
    seed: int | None = None,
) -> dict[str, Any]:
    """Evaluate what a run is to be judged by: its best checkpoint, or its weights as they are if there is none.

    Every rank calls it after `fit`, which took `seconds`; rank 0 prints the tables, writes `metrics.json` into the
    run's `folder`, and fills the loggers' pages. `test` is whether the test split is looked at, `projector` whether the
    validation rows' [CLS] vectors are logged, and `seed` what is recorded as the run's.

    Returns:
        What `metrics.json` holds: by split the metrics, `calibration`, the `audit` of the rows, `checkpoint` (relative
        to the folder; None if there is no best one), `steps`, `fit_seconds`, `throughput`, and `seed`.
    """
    path = next((str(callback.best_model_path) for callback in _callbacks(trainer, ModelCheckpoint)), "")
    averaged = bool(_callbacks(trainer, StochasticWeightAveraging))  # when training ends: no checkpoint has the average
    best = path if Path(path).is_file() and not averaged else None
    evaluator = trainer
    if not module.epoch_outputs and not (distributed.is_available() and distributed.is_initialized()):
        evaluator = _local_trainer(trainer)  # processes that were spawned to train are gone, with what they saw
    if averaged:
        evaluator.validate(module, datamodule=data, verbose=False)
    val = Checkpoint.read(best).val_outputs if best else module.epoch_outputs.get("val")
    outputs = {"val": cast(SplitOutputs, val)} if val else {}
    if test and "test" in data.split_sizes():
        # Test points belong to the last step and epoch. Of a run that is resumed when max_steps has ended it, Lightning
        # counts one less.
        trainer.fit_loop.epoch_loop.on_load_checkpoint({"_batches_that_stepped": trainer.global_step})
        epochs: Any = trainer.fit_loop.epoch_progress.current
        epochs.completed = epochs.ready
        evaluator.test(module, datamodule=data, ckpt_path=best, verbose=False)
        if rows := module.epoch_outputs.get("test"):
            outputs["test"] = rows
    embeddings = {}
    if projector and val:
        embeddings = tensorboard.capture_embeddings(evaluator, module, data, best, outputs["val"])
    if not trainer.is_global_zero:
        return {}
    splits = evaluate_splits(module, data, outputs)
    _print_best(trainer, best)
    report.print_results(splits)
    calibration = calibration_metrics(outputs["val"], outputs["test"]) if len(outputs) == 2 else {}
    throughput = _callbacks(trainer, Throughput)
    results = {
        **splits,
        "calibration": calibration,
        "audit": data.audit,
        "checkpoint": best and os.path.relpath(best, folder),
        "steps": trainer.global_step,
        "fit_seconds": round(seconds, 1),
        "throughput": throughput[0].summary(trainer) if throughput else {},
        "seed": seed,
    }
    report.write_json(folder / run_dir.METRICS, results)
    step, names, temperature = trainer.global_step, module.class_names, calibration.get("temperature")
    for split, rows in outputs.items():
        if split != "val":  # of these TensorBoardCallback has logged
            tensorboard.log_errors(trainer, split, rows, data.texts, names, step)
        tensorboard.log_figures(trainer, split, rows, splits[split]["slices"], names, temperature, step)
    if embeddings:
        tensorboard.log_projector(trainer, outputs["val"], embeddings, data.texts, names, step)
    tensorboard.log_final(trainer, splits, hyperparameters(trainer, module, data, seed), step)
    _print_summary(trainer, results, folder, averaged)
    stopped = trainer.max_epochs is None or trainer.current_epoch < trainer.max_epochs
    how = {"epochs": trainer.current_epoch, "best_epoch": best and Checkpoint.read(best).epoch + 1}
    how |= {"stopped_early": stopped, "class_weights": module.hparams.get("class_weights")}
    for line in hints(results, how | {"train_rows": data.hparams.get("train_rows")}):
        status("hint", line)
    return results


def evaluate(
    trainer: Trainer,
    module: BertClassifier,
    data: TextClassificationDataModule,
    split: str,
    ckpt_path: str | None,
    folder: Path | None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on "val" or "test", print the tables and write them into the folder, if one is given.

    Returns:
        The metrics by the split; on rank 0.
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
    if folder is not None:
        path = next_free_path(folder / f"metrics-{split}.json")
        report.write_json(path, {**results, "checkpoint": ckpt_path})
        status("metrics", display_path(path))
    return results


def _callbacks(trainer: Any, kind: type) -> list[Any]:
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


def _local_trainer(trainer: Any) -> Trainer:
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options: dict[str, Any] = {"devices": 1, "precision": trainer.precision, **dict.fromkeys(silent, False)}
    return Trainer(accelerator=trainer.strategy.root_device.type, plugins=[AtomicCheckpointIO()], **options)


def _print_best(trainer: Trainer, best: str | None) -> None:
    callback = next(iter(_callbacks(trainer, ModelCheckpoint)), None)
    if best and callback and callback.monitor and callback.best_model_score is not None:
        score = f"{callback.monitor} {float(callback.best_model_score):.4f}"
        status("best", f"epoch {Checkpoint.read(best).epoch} has {score}: {display_path(best)}")


def _print_summary(trainer: Trainer, results: dict[str, Any], folder: Path, averaged: bool) -> None:
    if results["throughput"]:
        speed = "{samples_per_sec:,.0f} sentences/s, {tokens_per_sec:,.0f} tokens/s, {padding_waste:.1%} padding"
        monitor = LoadMonitor.active
        busy = monitor.busy_looks / max(1, monitor.looks) if monitor else 0
        others = f"; other processes wanted the cores {busy:.0%} of the time" if busy >= 0.1 else ""
        status("speed", speed.format(**results["throughput"]) + others)
    calibration = results["calibration"]
    fitted = [calibration[key] for key in ("temperature", "val_ece", "val_ece_calibrated") if calibration]
    if results["checkpoint"] and fitted and helps(*fitted):
        calib = "test ECE {test_ece:.3f}, {test_ece_calibrated:.3f} after temperature scaling: "
        path, to = display_path(folder / results["checkpoint"]), display_path(folder / "calibrated")
        command = shlex.join(["python", "-m", "lit_bert.export", "--ckpt_path", path, "--to", to, "--calibrate"])
        status("calib", calib.format(**calibration) + command)
    status("run", f"{display_path(folder)} (trained in {results['fit_seconds']:.0f} s)")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            inside = Path(logger.log_dir).absolute().is_relative_to(folder.absolute())
            status("look", f"tensorboard --logdir {display_path(folder.parent if inside else logger.root_dir)}")
    for review in _callbacks(trainer, LabelReview):
        if review.path.is_file():
            status(
                "labels", f"{display_path(review.path)}: training rows whose labels may be wrong, the likeliest first"
            )
    if results["checkpoint"]:
        path = shlex.quote(display_path(folder / results["checkpoint"]))
        status("test", f"python train.py test --ckpt_path {path}")
        status("predict", f"python train.py predict --ckpt_path {path}")
    elif averaged:
        status("best", "the average of weights is in no checkpoint of an epoch")
    elif not _callbacks(trainer, ModelCheckpoint):
        status("best", "there is no best checkpoint: --trainer.enable_checkpointing is false")
    elif "val" not in results:
        status("best", "there is no best checkpoint: training ended before a validation")
    else:
        status("best", "there is no best checkpoint: --checkpoint.save_top_k is 0, or it was removed")
