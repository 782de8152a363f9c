"""What the results of a run call for, in a line each: a model that is worse than it ought to be, and what to change."""

from collections.abc import Mapping
from typing import Any

MAJORITY, LINEAR = "majority class", "TF-IDF, linear"
"""Titles of the baselines, as `evaluate_splits` has them."""


def hints(results: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """Return what to change, most urgent first; nothing if nothing is wrong.

    `results` and `options` are as in `finish_fit`; `best_epoch` counts from 1, and is None without a best checkpoint.
    """
    split = next((split for split in ("test", "val") if split in results), None)
    if split is None:
        return []
    metrics, epochs = results[split], options["epochs"]
    longer = f"train longer (--trainer.max_epochs {2 * epochs})"
    lines = []
    predicted = [name for name, values in metrics["classes"].items() if values["predicted"]]
    accuracy, baselines = metrics["acc"], metrics["baselines"]
    if len(predicted) == 1 and metrics["classes_with_rows"] > 1:
        balance = "" if options["class_weights"] else ", or weigh rare classes more (--model.class_weights balanced)"
        lines.append(f"every {split} row is predicted as {predicted[0]!r}: {longer}{balance}")
    elif accuracy < baselines[MAJORITY]["acc"]:
        lines.append(f"always answering the most frequent class is right more often: {longer}, and look at the labels")
    if accuracy < baselines[LINEAR]["acc"]:
        rows = "" if options["train_rows"] is None else ", with all rows (--data.train_rows null)"
        lines.append(
            f"TF-IDF is better, {baselines[LINEAR]['acc']:.4f} against {accuracy:.4f}: {longer}{rows}, or with another "
            "encoder (--model.pretrained)"
        )
    if not lines and options["best_epoch"] == epochs > 1 and not options["stopped_early"]:
        lines.append(f"validation was best in the last epoch; more may help (--trainer.max_epochs {2 * epochs})")
    return lines
