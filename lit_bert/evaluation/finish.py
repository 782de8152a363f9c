"""What follows `fit`: the best checkpoint is tested, its results are printed, written and logged."""

import os
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import distributed

from lit_bert.console import status
from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.evaluation import report
from lit_bert.evaluation.calibration import calibration_metrics
from lit_bert.evaluation.hints import hints
from lit_bert.evaluation.hparams import hyperparameters
from lit_bert.evaluation.metrics import evaluate_splits
from lit_bert.evaluation.summary import find_callback, print_best, print_summary
from lit_bert.files import display_path, next_free_path
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.modeling.outputs import SplitOutputs
from lit_bert.module import BertClassifier
from lit_bert.run import run_dir
from lit_bert.run.best_checkpoint import BestCheckpoint
from lit_bert.run.checkpoint_io import AtomicCheckpointIO
from lit_bert.run.rooms import import_if_present

Outputs = dict[str, SplitOutputs]


def finish_fit(
    trainer: Trainer,
    module: BertClassifier,
    data: TextClassificationDataModule,
    folder: Path,
    seconds: float,
    test: bool = True,
    seed: int | None = None,
) -> dict[str, Any]:
    """Evaluate what a run is to be judged by: its best checkpoint, or its weights as they are if there is none.

    Every rank calls it after `fit`, which took `seconds`; rank 0 prints the tables, writes `metrics.json` into the
    run's `folder`, and fills TensorBoard's pages. `test` is whether the test split is looked at. Without a
    `RowRecorder` among the callbacks there are no tables.

    Returns:
        What `metrics.json` holds; `checkpoint` is relative to the folder, None if there is no best one.
    """
    checkpoint = find_callback(trainer, ModelCheckpoint)
    averaged = find_callback(trainer, StochasticWeightAveraging) is not None  # no checkpoint has this average
    path = str(checkpoint.best_model_path) if checkpoint and not averaged else ""
    best = path if Path(path).is_file() else None
    outputs = _evaluate_best(trainer, module, data, best, test)
    if not trainer.is_global_zero:
        return {}
    print_best(trainer, best)
    splits = evaluate_splits(module.class_names, data, outputs) if outputs else {}
    if splits:
        report.print_results(splits)
    room = import_if_present("callbacks.throughput")
    throughput = room and find_callback(trainer, room.Throughput)
    results = {
        **splits,
        "calibration": calibration_metrics(outputs["val"], outputs["test"]) if len(outputs) == 2 else {},
        "audit": data.content.audit,
        "checkpoint": best and os.path.relpath(best, folder),
        "steps": trainer.global_step,
        "fit_seconds": round(seconds, 1),
        "throughput": throughput.summary(trainer) if throughput else {},
        "seed": seed,
    }
    report.write_json(folder / run_dir.METRICS, results)
    tensorboard = import_if_present("callbacks.tensorboard")
    if splits and tensorboard:
        _draw(trainer, module, data, outputs, results)
        tensorboard.log_final(trainer, splits, hyperparameters(trainer, module, data, seed), trainer.global_step)
    print_summary(trainer, results, folder, averaged)
    how = {
        "monitor": checkpoint and checkpoint.monitor,
        "loss_rose": isinstance(checkpoint, BestCheckpoint) and checkpoint.loss > checkpoint.lowest_loss,
        "epochs": trainer.current_epoch,
        "best_epoch": best and Checkpoint.read(best).epoch + 1,
        "stopped_early": trainer.max_epochs is None or trainer.current_epoch < trainer.max_epochs,
        "class_weights": module.hparams.get("class_weights"),
        "train_rows": data.options.train_rows,
    }
    for line in hints(results, how):
        status("hint", line)
    return results


def _evaluate_best(
    trainer: Trainer, module: BertClassifier, data: TextClassificationDataModule, best: str | None, test: bool
) -> Outputs:
    """Return the validation rows that belong to the best weights, and the test rows if there are any."""
    evaluator = trainer
    if not data.splits:  # other processes have read them
        data.prepare_data()
        data.setup("test")
    if not _recorded_rows(trainer) and not (distributed.is_available() and distributed.is_initialized()):
        evaluator = _local_trainer(trainer)  # processes that were spawned to train are gone, with what they recorded
    if find_callback(trainer, StochasticWeightAveraging):
        evaluator.validate(module, datamodule=data, verbose=False)
    val = Checkpoint.read(best).val_outputs if best else _recorded_rows(evaluator).get("val")
    outputs: Outputs = {"val": cast(SplitOutputs, val)} if val else {}
    if test and "test" in data.splits:
        # Test points belong to the last step and epoch. If a run is resumed that max_steps has ended, Lightning counts
        # one step less.
        trainer.fit_loop.epoch_loop.on_load_checkpoint({"_batches_that_stepped": trainer.global_step})
        epochs = trainer.fit_loop.epoch_progress.current
        epochs.completed = epochs.ready
        evaluator.test(module, datamodule=data, ckpt_path=best, verbose=False)
        if rows := _recorded_rows(evaluator).get("test"):
            outputs["test"] = rows
    return outputs


def _recorded_rows(trainer: Trainer) -> Outputs:
    """Return the rows of the last whole epochs by split, which a `RowRecorder` among the callbacks has kept."""
    room = import_if_present("callbacks.row_recorder")
    recorder: Any = room and find_callback(trainer, room.RowRecorder)
    return recorder.rows if recorder else {}


def _draw(
    trainer: Trainer, module: BertClassifier, data: TextClassificationDataModule, outputs: Outputs, results: Any
) -> None:
    """Log errors, figures and confused pairs to TensorBoard."""
    step, names = trainer.global_step, module.class_names
    tensorboard = import_if_present("callbacks.tensorboard")
    loggers = tensorboard.tensorboard_loggers(trainer)
    figures = import_if_present("evaluation.figures") if loggers else None
    for split, rows in outputs.items():
        if split != "val":  # TensorBoardCallback has logged these
            tensorboard.log_errors(trainer, split, rows, data, names, step)
        if figures:
            temperature = results["calibration"].get("temperature")
            for name, figure in figures.draw(split, rows, results[split]["slices"], names, temperature):
                for logger in loggers:
                    logger.experiment.add_figure(f"{split}/{name}", figure, step, close=False)
        if figures and len(names) > 2:
            pairs = figures.confused_pairs(rows["preds"], rows["labels"], names)
            columns = ["label", "pred", "rows", "share"]
            tensorboard.log_table(trainer, f"{split}/most confused pairs", columns, pairs, step)


def evaluate(
    trainer: Trainer,
    module: BertClassifier,
    data: TextClassificationDataModule,
    split: str,
    ckpt_path: str | None,
    folder: Path | None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on "val" or "test", print the tables and write them into the folder, if one is given."""
    model = display_path(ckpt_path) if ckpt_path else f"--model.pretrained {module.pretrained}"
    status(split, f"{model} on the {split} rows of {data.options.dataset}")
    run = trainer.test if split == "test" else trainer.validate
    logged = run(module, datamodule=data, ckpt_path=ckpt_path, verbose=False)
    metrics: dict[str, Any] = {name: value for each in logged for name, value in each.items()}
    if not metrics:
        raise UserError(f"--trainer.limit_{split}_batches: nothing was evaluated")
    outputs = _recorded_rows(trainer).get(split)
    if not trainer.is_global_zero or not outputs:
        return metrics
    results = evaluate_splits(module.class_names, data, {split: outputs})
    report.print_results(results)
    if folder is not None:
        path = next_free_path(folder / f"metrics-{split}.json")
        report.write_json(path, {**results, "checkpoint": ckpt_path})
        status("metrics", display_path(path))
    return results


def _local_trainer(trainer: Trainer) -> Trainer:
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options: dict[str, Any] = {"devices": 1, "precision": trainer.precision, **dict.fromkeys(silent, False)}
    room = import_if_present("callbacks.row_recorder")
    callbacks = [room.RowRecorder()] if room else []
    device = trainer.strategy.root_device.type
    return Trainer(accelerator=device, plugins=[AtomicCheckpointIO()], callbacks=callbacks, **options)
