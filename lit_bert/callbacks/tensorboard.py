"""What TensorBoard shows of a run beside its scalars: curves on one chart, errors with their text, figures, vectors.

Figures and tables go to other loggers, too: see `loggers`. In all functions, `outputs` are predicted rows of a split,
and `step` is the number of optimizer steps done.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lit_bert.callbacks.loggers import log_figure, log_table, takes_figures
from lit_bert.evaluation.calibration import apply_temperature
from lit_bert.modeling.outputs import SplitOutputs, gather_outputs

TextsOf = Callable[[str, Tensor], tuple[list[str], list[int]]]
"""Sentences and token counts of some rows of a split: `TextClassificationDataModule.texts`."""

MAX_ERRORS, MAX_CURVES, MAX_PROJECTED = 20, 20, 10_000
"""Errors that are listed at most, classes with a curve, and vectors in the projector: more make it slow."""

FINAL = "when finished"
"""Group of the scalars with one point, which comes after "train" and "val" on TensorBoard's page."""

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
    trainer: Trainer, split: str, outputs: SplitOutputs, texts_of: TextsOf, class_names: list[str], step: int
) -> None:
    """Log precision-recall curves, for TensorBoard's page of them, and the most confident errors as a table."""
    if not trainer.is_global_zero or not trainer.loggers:
        return
    labels, preds, probs = outputs["labels"], outputs["preds"], outputs["probs"]
    for logger in _tensorboard_loggers(trainer):
        for number, name in enumerate(class_names[:MAX_CURVES]):
            rows_of_class, scores_of_class = (labels == number).numpy(), probs[:, number].numpy()
            logger.experiment.add_pr_curve(f"{split}/{name}", rows_of_class, scores_of_class, step)
    scores = probs.amax(dim=1)
    wrong = (preds != labels).nonzero().flatten()
    wrong = wrong[scores[wrong].argsort(descending=True, stable=True)][:MAX_ERRORS]
    index = outputs["index"][wrong]
    rows = [
        [str(place), class_names[int(labels[row])], class_names[int(preds[row])], f"{scores[row]:.3f}", sentence[:400]]
        for row, place, sentence in zip(wrong.tolist(), index.tolist(), texts_of(split, index)[0], strict=True)
    ]
    columns = ["row", "truth", "prediction", "probability", "sentence"]
    log_table(trainer, f"{split}/most confident errors", columns, rows, step)


def log_figures(
    trainer: Trainer,
    split: str,
    outputs: SplitOutputs,
    slices: Mapping[str, Mapping[str, float]],
    class_names: list[str],
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
    if len(class_names) > 2:
        pairs = figures.confused_pairs(outputs["preds"], labels, class_names)
        log_table(trainer, f"{split}/most confused pairs", ["truth", "prediction", "rows", "share"], pairs, step)


def log_final(trainer: Trainer, results: Mapping[str, Mapping[str, Any]], params: Mapping[str, Any], step: int) -> None:
    """Log hyperparameters beside metrics, for TensorBoard's page that compares runs, and a table of the results.

    `results` is what `evaluate_splits` returned; parameters that are None are left out.
    """
    metrics = ("acc", "f1", "balanced_acc", "ece", "loss")
    final = {f"{FINAL}/{split}_{key}": values[key] for split, values in results.items() for key in metrics}
    known = {key: value for key, value in params.items() if value is not None}
    hparams = {key: value if isinstance(value, int | float) else str(value) for key, value in known.items()}
    rows = [
        [split, str(values["rows"]), *(f"{values[key]:.4f}" for key in metrics)] for split, values in results.items()
    ]
    log_table(trainer, "results", ["split", "rows", *metrics], rows, step)
    for logger in _tensorboard_loggers(trainer):
        logger.log_hyperparams(hparams, final, step=step)
        logger.finalize("success")


class CaptureEmbeddings(Callback):
    """Keeps the [CLS] vectors, of the last hidden states, of predicted rows with an `index` below `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.batches: list[dict[str, Tensor]] = []
        """`index` (B,) and `embeddings` (B, hidden size) of this rank's batches, to be joined by `gather_outputs`."""

    def on_predict_start(self, trainer: Trainer, pl_module: Any) -> None:
        def capture(encoder: Any, args: Any, output: Any) -> None:
            self._cls = output.last_hidden_state[:, 0].float()

        self._hook = pl_module.backbone.register_forward_hook(capture)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        kept = outputs["index"] < self.limit
        self.batches.append({"index": outputs["index"][kept].cpu(), "embeddings": self._cls[kept].cpu()})

    def on_predict_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._hook.remove()


def capture_embeddings(
    trainer: Any, module: LightningModule, data: Any, ckpt_path: str | None, outputs: SplitOutputs
) -> dict[str, Tensor]:
    """Return `index` and `embeddings` of the first validation rows, for `log_projector`; every rank calls it."""
    capture = CaptureEmbeddings(int(outputs["index"][:MAX_PROJECTED][-1]) + 1)
    trainer.callbacks.append(capture)
    data.predict_split = "val"
    trainer.predict(module, datamodule=data, ckpt_path=ckpt_path, return_predictions=False)
    trainer.callbacks.remove(capture)
    return gather_outputs(capture.batches, deduplicate=True)


def log_projector(
    trainer: Trainer, outputs: SplitOutputs, captured: dict[str, Tensor], texts_of: TextsOf, names: list[str], step: int
) -> None:
    """Log the [CLS] vectors of validation rows for TensorBoard's projector, to be coloured by class or outcome."""
    chosen = torch.isin(outputs["index"], captured["index"]).nonzero().flatten()
    texts, _ = texts_of("val", outputs["index"][chosen])
    metadata = []
    for row, text in zip(chosen.tolist(), texts, strict=True):
        label, pred = int(outputs["labels"][row]), int(outputs["preds"][row])
        outcome = "right" if label == pred else "wrong"
        metadata.append([names[label], names[pred], outcome, " ".join(text.split())])
    header = ["class", "prediction", "outcome", "sentence"]
    embeddings = captured["embeddings"][torch.isin(captured["index"], outputs["index"])]
    for logger in _tensorboard_loggers(trainer):
        logger.experiment.add_embedding(embeddings, metadata, None, step, "CLS", header)


def _tensorboard_loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
