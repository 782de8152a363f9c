"""What TensorBoard shows of a run beside its scalars: curves on one chart, errors with their text, tables."""

import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lit_bert.datamodule import TextClassificationDataModule
from lit_bert.modeling.outputs import SplitOutputs
from lit_bert.module import BertClassifier

if TYPE_CHECKING:
    from lit_bert.callbacks.row_recorder import RowRecorder

MAX_ERRORS, MAX_CURVES = 20, 20
"""Errors that are listed at most, and classes with a precision-recall curve: more make TensorBoard slow."""

_LAYOUT = {
    "training and validation": {
        "loss": ["Multiline", ["train/loss", "val/loss"]],
        "accuracy": ["Multiline", ["train/acc", "val/acc"]],
        "macro F1": ["Multiline", ["train/f1", "val/f1"]],
    },
    "training": {
        "learning rate": ["Multiline", ["train/lr/pg1"]],
        "gradient norm, before clipping": ["Multiline", ["train/grad_norm"]],
        "sentences per second": ["Multiline", ["train/samples_per_sec"]],
        "share of computed tokens that are padding": ["Multiline", ["train/padding_waste"]],
    },
}


class ScalarLogger(TensorBoardLogger):
    """TensorBoard's logger without the scalar `epoch` that Lightning adds to all others, several times a step."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class TensorBoardCallback(Callback):
    """Logs training and validation on one chart, and after each validation precision-recall curves and errors.

    Args:
        recorder: Where the rows of a validation come from, also one of the Trainer's callbacks; without it, or with
            other modules than `BertClassifier` and `TextClassificationDataModule`, there are no curves and errors.
    """

    def __init__(self, recorder: "RowRecorder | None" = None) -> None:
        self.recorder = recorder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:  # a resumed run has the layout already
            for logger in tensorboard_loggers(trainer):
                logger.experiment.add_custom_scalars(_LAYOUT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.recorder is None:
            return
        outputs = self.recorder.rows.get("val")
        if outputs and isinstance(data, TextClassificationDataModule) and isinstance(pl_module, BertClassifier):
            log_errors(trainer, "val", outputs, data, pl_module.class_names, trainer.global_step - 1)


def log_errors(
    trainer: Trainer, split: str, outputs: SplitOutputs, data: TextClassificationDataModule, names: list[str], step: int
) -> None:
    """Log precision-recall curves, for TensorBoard's page of them, and the most confident errors as a table."""
    labels, preds, probs = outputs["labels"], outputs["preds"], outputs["probs"]
    for logger in tensorboard_loggers(trainer):
        for number, name in enumerate(names[:MAX_CURVES]):
            logger.experiment.add_pr_curve(f"{split}/{name}", labels == number, probs[:, number], step)
    scores = probs.amax(dim=1)
    wrong = (preds != labels).nonzero().flatten()
    wrong = wrong[scores[wrong].argsort(descending=True, stable=True)][:MAX_ERRORS]
    index = outputs["index"][wrong]
    rows = [
        [str(place), names[int(labels[row])], names[int(preds[row])], f"{scores[row]:.3f}", sentence[:400]]
        for row, place, sentence in zip(wrong.tolist(), index.tolist(), data.texts(split, index)[0], strict=True)
    ]
    columns = ["row", "label", "pred", "score", "text"]
    log_table(trainer, f"{split}/most confident errors", columns, rows, step)


def log_final(trainer: Trainer, results: Mapping[str, Mapping[str, Any]], params: Mapping[str, Any], step: int) -> None:
    """Log hyperparameters beside metrics, for TensorBoard's page that compares runs, and a table of the results.

    `results` is what `evaluate_splits` returned; parameters that are None are left out.
    """
    metrics = ("acc", "f1", "balanced_acc", "ece", "loss")
    final = {f"final/{split}_{key}": values[key] for split, values in results.items() for key in metrics}
    rows = [[name, str(split["rows"]), *(f"{split[key]:.4f}" for key in metrics)] for name, split in results.items()]
    known = {key: value for key, value in params.items() if value is not None}
    hparams = {key: value if isinstance(value, int | float) else str(value) for key, value in known.items()}
    log_table(trainer, "results", ["split", "rows", *metrics], rows, step)
    for logger in tensorboard_loggers(trainer):
        logger.log_hyperparams(hparams, final, step=step)
        logger.finalize("success")


def log_table(trainer: Trainer, tag: str, columns: list[str], rows: list[list[str]], step: int) -> None:
    """Log a table of text."""
    for logger in tensorboard_loggers(trainer):
        logger.experiment.add_text(tag, to_markdown(columns, rows), step)


def to_markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table that shows every cell as it is; columns of numbers are aligned to the right."""
    is_number = re.compile(r"[0-9.]+").fullmatch
    numeric = [all(is_number(row[column]) for row in rows) for column in range(len(columns))]
    # TensorBoard makes the other columns one letter wide unless long cells are broken into lines.
    cells = [
        [cell if is_number(cell) else "<br>".join(map(escape, textwrap.wrap(cell, 90))) for cell in row] for row in rows
    ]
    lines = [columns, ["---:" if right else "---" for right in numeric], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is: a character reference for all but letters, digits and spaces."""
    return "".join(c if c.isalnum() else " " if c.isspace() else f"&#{ord(c)};" for c in text)


def tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    """Return those of a Trainer's loggers that write for TensorBoard; none on other ranks than 0."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
