"""What the results of a run call for, in a line each: a model that is worse than it ought to be, and what to change."""

from collections.abc import Mapping
from typing import Any

MAJORITY, LINEAR = "majority class", "TF-IDF, linear"
"""Titles of the baselines, as `evaluate_splits` has them."""


def hints(results: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Return what to change, most urgent first; nothing if nothing is wrong.

    `results` and `options` are as in `finish_fit`; `best_epoch` counts from 1, and is None without a best checkpoint.
    The baseline is compared by macro F1 if that chooses the best epoch (`monitor`), else by accuracy.
    """
    split = next((split for split in ("test", "val") if split in results), None)
    if split is None:
        return []
    metrics, epochs = results[split], options["epochs"]
    longer = f"train longer (--trainer.max_epochs {2 * epochs})"
    weights = "" if options["class_weights"] else ", or weigh rare classes more (--model.class_weights balanced)"
    lines = []
    classes, baselines = metrics["classes"], metrics["baselines"]
    predicted = [name for name, values in classes.items() if values["predicted"]]
    missed = [name for name, values in classes.items() if values["recall"] == 0]
    if len(predicted) == 1 and metrics["classes_with_rows"] > 1:
        lines.append(f"every {split} row is predicted as {predicted[0]!r}: {longer}{weights}")
    elif metrics["acc"] < baselines[MAJORITY]["acc"]:
        lines.append(f"always answering the most frequent class is right more often: {longer}, and look at the labels")
    if missed and len(predicted) > 1:
        lines.append(f"no {split} row of {', '.join(missed[:5])} is recognised: add training rows of it{weights}")
    score, title = ("f1", "macro F1") if options["monitor"] == "val/f1" else ("acc", "accuracy")
    if metrics[score] < baselines[LINEAR][score]:
        rows = "" if options["train_rows"] is None else ", with all rows (--data.train_rows null)"
        figures = f"{title} {baselines[LINEAR][score]:.4f} against {metrics[score]:.4f}"
        lines.append(f"TF-IDF is better, {figures}: {longer}{rows}, or with another encoder (--model.pretrained)")
    ended = options["stopped_early"] or options["loss_rose"] or metrics["acc"] == 1
    if not lines and options["best_epoch"] == epochs > 1 and not ended:
        lines.append(f"validation was best in the last epoch; more may help (--trainer.max_epochs {2 * epochs})")
    return lines
