"""What TensorBoard shows of a run beside its scalars: curves on one chart, errors with their text, figures."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from lit_bert import calibration

ERRORS = 20
"""How many of the most confident errors are listed."""

PROJECTED = 10_000
"""How many vectors the projector gets at most: more make it slow."""

_LAYOUT = {
    "training and validation": {
        "loss": ["Multiline", ["train/loss", "val/loss"]],
        "accuracy": ["Multiline", ["train/acc", "val/acc"]],
        "macro F1": ["Multiline", ["train/f1", "val/f1"]],
    },
    "training": {
        "learning rate": ["Multiline", ["train/lr"]],
        "gradient norm, before clipping": ["Multiline", ["train/grad_norm"]],
        "sentences per second": ["Multiline", ["train/sentences_per_s"]],
        "share of computed tokens that are padding": ["Multiline", ["train/padding_waste"]],
    },
}


def writer(trainer: Trainer) -> SummaryWriter | None:
    """Return what writes to TensorBoard, on the rank that does, or None."""
    logger = trainer.logger
    return logger.experiment if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero else None


class Board(Callback):
    """Writes a chart for training and validation together, and after each validation precision, recall and errors."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lay out the custom scalars, once per run."""
        if (to := writer(trainer)) and not trainer.ckpt_path:
            to.add_custom_scalars(_LAYOUT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what costs little of these predictions."""
        module: Any = pl_module
        if trainer.state.fn == "fit" and not trainer.sanity_checking and (to := writer(trainer)) and module.seen["val"]:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            write_errors(to, "val", module.seen["val"], data, module.class_names, trainer.global_step - 1)


def write_errors(
    to: SummaryWriter, split: str, rows: Mapping[str, Tensor], data: Any, names: Sequence[str], step: int
) -> None:
    """Write precision-recall curves for TensorBoard's own page of them, and the most confident errors as a table.

    Args:
        to: Writes to TensorBoard.
        split: What tags begin with.
        rows: What `BertClassifier.seen` has of it.
        data: The data module that they come from.
        names: The classes.
        step: Optimizer steps done.
    """
    for number, name in enumerate(names):
        right, probs = (rows["labels"] == number).numpy(), rows["probs"][:, number].numpy()
        to.add_pr_curve(f"{split}/{name}", right, probs, step)
    score = rows["probs"].amax(dim=1)
    wrong = (rows["pred"] != rows["labels"]).nonzero().flatten()
    wrong = wrong[score[wrong].argsort(descending=True, stable=True)][:ERRORS]
    lines = ["| row | truth | prediction | probability | sentence |", "| ---: | --- | --- | ---: | --- |"]
    texts, _ = data.texts(split, rows["index"][wrong])
    for row, text in zip(wrong.tolist(), texts, strict=True):
        truth, pred = (escaped(names[int(rows[name][row])]) for name in ("labels", "pred"))
        # In lines, or TensorBoard would make the other columns one letter wide.
        sentence = "<br>".join(map(escaped, textwrap.wrap(text[:400], 90)))
        lines.append(f"| {int(rows['index'][row])} | {truth} | {pred} | {float(score[row]):.3f} | {sentence} |")
    to.add_text(f"{split}/most confident errors", "\n".join(lines), step)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is: what is no letter, digit or space becomes a character reference."""
    return "".join(c if c.isalnum() else " " if c.isspace() else f"&#{ord(c)};" for c in text)


def write_figures(
    to: SummaryWriter,
    split: str,
    rows: Mapping[str, Tensor],
    slices: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    temperature: float | None,
    step: int,
) -> None:
    """Draw what a run's last look at a split tells.

    Args:
        to: Writes to TensorBoard.
        split: What tags begin with.
        rows: What `BertClassifier.seen` has of it.
        slices: `report.accuracy` of some slices, by their titles.
        names: The classes.
        temperature: Fitted on validation rows, for a second curve of calibration; None draws none.
        step: Optimizer steps done.
    """
    from lit_bert import figures  # matplotlib takes half a second to import

    probs, labels = rows["probs"], rows["labels"]
    kinds = {"as trained": probs}
    if temperature is not None:
        kinds[f"temperature {temperature:.2f}"] = calibration.scaled(probs, temperature)
    of = f"{split}, {len(labels):,} rows"
    drawn = {
        "confusion matrix": figures.confusion_matrix(rows["pred"], labels, names, f"Confusion matrix ({of})"),
        "precision and recall": figures.precision_recall(probs, labels, names, f"Precision and recall ({of})"),
        "ROC": figures.roc(probs, labels, names, f"Receiver operating characteristic ({of})"),
        "reliability": figures.reliability(kinds, labels, f"Reliability ({of})"),
        "coverage": figures.coverage(probs, labels, f"Accuracy and coverage ({of})"),
        "slices": figures.slices(slices, f"Accuracy by slice ({of})"),
    }
    for name, figure in drawn.items():
        to.add_figure(f"{split}/{name}", figure, step, close=False)


def finish(
    to: SummaryWriter,
    trainer: Trainer,
    rows: Mapping[str, dict[str, Tensor]],
    records: Mapping[str, dict[str, Any]],
    temperature: float | None,
    params: Mapping[str, Any],
) -> None:
    """Write figures, errors and hyperparameters of a run that has ended.

    Args:
        to: Writes to TensorBoard.
        trainer: Of the run.
        rows: What the best checkpoint predicts, as `BertClassifier.seen` has it, by the split's title.
        records: What `evaluation.records` returned of them.
        temperature: Fitted on validation rows, if there are any.
        params: Hyperparameters.
    """
    module, data, step = cast(Any, trainer.lightning_module), cast(Any, trainer).datamodule, trainer.global_step
    for split, of in rows.items():
        if split != "val":  # of these `Board` has written
            write_errors(to, split, of, data, module.class_names, step)
        write_figures(to, split, of, records[split]["slices"], module.class_names, temperature, step)
    final = {f"final/{split}_{key}": of[key] for split, of in records.items() for key in ("acc", "f1", "ece")}
    told = {key: value for key, value in params.items() if value is not None}
    plain = {key: value if isinstance(value, int | float) else str(value) for key, value in told.items()}
    logger = cast(TensorBoardLogger, trainer.logger)
    logger.log_hyperparams(plain, final, step=step)
    logger.finalize("success")


def write_projection(
    to: SummaryWriter, trainer: Trainer, rows: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    """Write the [CLS] vectors of validation rows for TensorBoard's projector, to be coloured by class or outcome.

    Args:
        to: Writes to TensorBoard.
        trainer: Of the run.
        rows: What the best checkpoint predicts of them, as `BertClassifier.seen` has it.
        found: `vectors` (rows, hidden size) of some of these rows, and their `index`.
    """
    module, data = cast(Any, trainer.lightning_module), cast(Any, trainer).datamodule
    known = torch.isin(rows["index"], found["index"])
    texts, _ = data.texts("val", rows["index"][known])
    classes = [[module.class_names[number] for number in rows[kind][known].tolist()] for kind in ("labels", "pred")]
    metadata = [
        [truth, pred, "right" if truth == pred else "wrong", " ".join(text.split())]
        for truth, pred, text in zip(*classes, texts, strict=True)
    ]
    header = ["class", "prediction", "outcome", "sentence"]
    vectors = found["vectors"][torch.isin(found["index"], rows["index"])]
    to.add_embedding(vectors, metadata, None, trainer.global_step, "CLS", header)
