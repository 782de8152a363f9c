"""What TensorBoard shows of a run beside its scalars: curves on one chart, errors with their text, figures, vectors.

Figures and tables go to other loggers, too: see `loggers`. In all functions, `outputs` are predicted rows of a split,
and `step` is the number of optimizer steps done.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lit_bert.evaluation.calibration import apply_temperature
from lit_bert.evaluation.loggers import log_figure, log_table, takes_figures
from lit_bert.modeling.outputs import SplitOutputs

TextsOf = Callable[[str, Tensor], tuple[list[str], list[int]]]
"""Sentences and token counts of some rows of a split: `TextClassificationDataModule.texts`."""

MAX_ERRORS = 20
"""Errors that are listed at most."""

MAX_PROJECTED = 10_000
"""Vectors in the projector at most: more make it slow."""

_LAYOUT = {
    "training and validation": {
        "loss": ["Multiline", ["train/loss", "val/loss"]],
        "accuracy": ["Multiline", ["train/acc", "val/acc"]],
        "macro F1": ["Multiline", ["train/f1", "val/f1"]],
    },
    "training": {
        "learning rate": ["Multiline", ["train/lr"]],
        "gradient norm, before clipping": ["Multiline", ["train/grad_norm"]],
        "sentences per second": ["Multiline", ["train/samples_per_sec"]],
        "share of computed tokens that are padding": ["Multiline", ["train/padding_waste"]],
    },
}


class TensorBoardCallback(Callback):
    """Logs training and validation on one chart, and after each validation precision-recall curves and errors.

    It takes what it needs from `BertClassifier` and `TextClassificationDataModule`, and does nothing with others.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:  # or the run has the layout already
            for logger in _tensorboard_loggers(trainer):
                logger.experiment.add_custom_scalars(_LAYOUT)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        outputs = getattr(pl_module, "epoch_outputs", {}).get("val", {})
        texts_of = getattr(getattr(trainer, "datamodule", None), "texts", None)
        names = getattr(pl_module, "class_names", None)
        if texts_of and names and {"index", "labels", "preds", "probs"} <= outputs.keys():
            log_errors(trainer, "val", outputs, texts_of, cast(list[str], names), trainer.global_step - 1)


def log_errors(
    trainer: Trainer, split: str, outputs: SplitOutputs, texts_of: TextsOf, class_names: Sequence[str], step: int
) -> None:
    """Log precision-recall curves, for TensorBoard's page of them, and the most confident errors as a table."""
    if not trainer.is_global_zero or not trainer.loggers:
        return
    labels, preds, probs = outputs["labels"], outputs["preds"], outputs["probs"]
    for logger in _tensorboard_loggers(trainer):
        for number, name in enumerate(class_names):
            logger.experiment.add_pr_curve(
                f"{split}/{name}", (labels == number).numpy(), probs[:, number].numpy(), step
            )
    scores = probs.amax(dim=1)
    wrong = (preds != labels).nonzero().flatten()
    wrong = wrong[scores[wrong].argsort(descending=True, stable=True)][:MAX_ERRORS]
    index = outputs["index"][wrong]
    columns = ["row", "truth", "prediction", "probability", "sentence"]
    cells = [
        [str(place) for place in index.tolist()],
        *([class_names[number] for number in numbers[wrong].tolist()] for numbers in (labels, preds)),
        [f"{score:.3f}" for score in scores[wrong].tolist()],
        [text[:400] for text in texts_of(split, index)[0]],
    ]
    rows = [list(row) for row in zip(*cells, strict=True)]
    log_table(trainer, f"{split}/most confident errors", columns, rows, step)


def log_figures(
    trainer: Trainer,
    split: str,
    outputs: SplitOutputs,
    slices: Mapping[str, Mapping[str, float]],
    class_names: Sequence[str],
    temperature: float | None,
    step: int,
) -> None:
    """Log figures of a split; a `temperature` fitted on validation rows gives a second curve of calibration."""
    if not trainer.is_global_zero or not any(takes_figures(logger) for logger in trainer.loggers):
        return
    from lit_bert.evaluation import figures  # matplotlib takes half a second to import

    probs, labels = outputs["probs"], outputs["labels"]
    curves = {"as trained": probs}
    if temperature is not None:
        curves[f"temperature {temperature:.2f}"] = apply_temperature(probs, temperature)
    rows = f"({split}, {len(labels):,} rows)"
    drawn = {
        "confusion matrix": figures.confusion_matrix(outputs["preds"], labels, class_names, f"Confusion matrix {rows}"),
        "precision and recall": figures.precision_recall(probs, labels, class_names, f"Precision and recall {rows}"),
        "ROC": figures.roc(probs, labels, class_names, f"Receiver operating characteristic {rows}"),
        "reliability": figures.reliability(curves, labels, f"Reliability {rows}"),
        "coverage": figures.coverage(probs, labels, f"Accuracy and coverage {rows}"),
        "slices": figures.slices(slices, f"Accuracy by slice {rows}"),
    }
    for name, figure in drawn.items():
        log_figure(trainer, f"{split}/{name}", figure, step)


def log_final(trainer: Trainer, results: Mapping[str, Mapping[str, Any]], params: Mapping[str, Any], step: int) -> None:
    """Log hyperparameters beside final/* metrics, for TensorBoard's page that compares runs, and close its files.

    `results` is what `evaluate_splits` returned; parameters that are None are left out.
    """
    final = {f"final/{split}_{key}": metrics[key] for split, metrics in results.items() for key in ("acc", "f1", "ece")}
    known = {key: value for key, value in params.items() if value is not None}
    hparams = {key: value if isinstance(value, int | float) else str(value) for key, value in known.items()}
    for logger in _tensorboard_loggers(trainer):
        logger.log_hyperparams(hparams, final, step=step)
        logger.finalize("success")


class CaptureEmbeddings(Callback):
    """Keeps the [CLS] vectors, of the last hidden states, of rows that `Trainer.predict` predicts.

    Args:
        limit: Rows with an `index` below it are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.batches: list[dict[str, Tensor]] = []
        """`index` (B,) and `embeddings` (B, hidden size) of this rank's batches, to be joined by `gather_outputs`."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def capture(encoder: Any, args: Any, output: Any) -> None:
            self._cls = output.last_hidden_state[:, 0].float()

        self._hook = cast(Any, pl_module).backbone.register_forward_hook(capture)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        kept = outputs["index"] < self.limit
        self.batches.append({"index": outputs["index"][kept].cpu(), "embeddings": self._cls[kept].cpu()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._hook.remove()


def log_projector(
    trainer: Trainer,
    outputs: SplitOutputs,
    captured: Mapping[str, Tensor],
    texts_of: TextsOf,
    class_names: Sequence[str],
    step: int,
) -> None:
    """Log the [CLS] vectors of validation rows for TensorBoard's projector, to be coloured by class or outcome."""
    chosen = torch.isin(outputs["index"], captured["index"])
    columns = [[class_names[n] for n in numbers[chosen].tolist()] for numbers in (outputs["labels"], outputs["preds"])]
    texts, _ = texts_of("val", outputs["index"][chosen])
    metadata = [
        [truth, pred, "right" if truth == pred else "wrong", " ".join(text.split())]
        for truth, pred, text in zip(*columns, texts, strict=True)
    ]
    header = ["class", "prediction", "outcome", "sentence"]
    embeddings = captured["embeddings"][torch.isin(captured["index"], outputs["index"])]
    for logger in _tensorboard_loggers(trainer):
        logger.experiment.add_embedding(embeddings, metadata, None, step, "CLS", header)


def _tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
