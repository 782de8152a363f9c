"""Figures of what a classifier does, drawn on white, for a light page or a dark one.

Legend: N rows, C classes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_auroc, multiclass_average_precision

from lit_bert.evaluation.calibration import apply_temperature, expected_calibration_error
from lit_bert.evaluation.metrics import wilson_interval
from lit_bert.modeling.metrics import ECE_BINS
from lit_bert.modeling.outputs import SplitOutputs

MAX_NUMBERED, MAX_NAMED, MAX_CURVES = 12, 40, 8
"""Classes up to which a confusion matrix has numbers, and names; curves in a figure, of the worst classes."""


def draw(
    split: str, outputs: SplitOutputs, slice_metrics: Mapping[str, Any], names: Sequence[str], temperature: float | None
) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of a split by their names; a `temperature` adds a second curve of calibration."""
    preds, probs, labels = outputs["preds"], outputs["probs"], outputs["labels"]
    scaled = {} if temperature is None else {f"temperature {temperature:.2f}": apply_temperature(probs, temperature)}
    rows = f"({split}, {len(labels):,} rows)"
    yield "confusion matrix", confusion_matrix(preds, labels, names, f"Confusion matrix {rows}")
    for kind, title in (("precision and recall", "Precision and recall"), ("ROC", "Receiver operating characteristic")):
        yield kind, curves(kind, probs, labels, names, f"{title} {rows}")
    yield "reliability", reliability({"as trained": probs, **scaled}, labels, f"Reliability {rows}")
    yield "coverage", coverage(probs, labels, f"Accuracy and coverage {rows}")
    yield "slices", slices(slice_metrics, f"Accuracy by slice {rows}")


def _new_figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 4.4), dpi=110, layout="constrained", facecolor="white")
    return figure, figure.subplots()


def _label(name: str) -> str:
    """Return a class's name as matplotlib is to show it: not too long, and not taken for a formula."""
    return (name if len(name) <= 24 else f"{name[:23]}\u2026").replace("$", r"\$")


def confusion_matrix(preds: Tensor, labels: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw which share of each class's rows is predicted as which; `preds` and `labels` have shape (N,)."""
    from sklearn import metrics

    figure, axes = _new_figure()
    names = [_label(name) for name in class_names]
    if len(names) > MAX_NAMED:
        shares = metrics.confusion_matrix(labels.numpy(), preds.numpy(), labels=range(len(names)), normalize="true")
        figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1))
        axes.set(title=title, xlabel="predicted class", ylabel="true class", xticks=[], yticks=[])
        return figure
    display = metrics.ConfusionMatrixDisplay.from_predictions(
        labels.numpy(),
        preds.numpy(),
        labels=range(len(names)),
        display_labels=names,
        normalize="true",
        include_values=len(names) <= MAX_NUMBERED,
        values_format=".2f",
        xticks_rotation="horizontal" if sum(map(len, names)) <= 30 else "vertical",
        cmap="Blues",
        ax=axes,
        text_kw={"fontsize": "medium" if len(names) <= 5 else "x-small"},
        im_kw={"vmin": 0, "vmax": 1},
    )
    if len(names) <= 3:  # there is room for the rows, too
        for pair, count in Counter(zip(labels.tolist(), preds.tolist(), strict=True)).items():
            text = display.text_[pair]
            text.set_text(f"{text.get_text()}\n{count:,} rows")
    if len(names) > MAX_NUMBERED:
        axes.tick_params(labelsize=5)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    return figure


def confused_pairs(preds: Tensor, labels: Tensor, class_names: Sequence[str], most: int = 20) -> list[list[str]]:
    """Return the pairs of classes that are confused most, as cells: label, prediction, rows, share of the class."""
    wrong, sizes = preds != labels, Counter(labels.tolist())
    pairs = Counter(sorted(zip(labels[wrong].tolist(), preds[wrong].tolist(), strict=True)))
    return [
        [class_names[label], class_names[pred], str(count), f"{count / sizes[label]:.3f}"]
        for (label, pred), count in pairs.most_common(most)
    ]


def curves(kind: str, probs: Tensor, labels: Tensor, class_names: Sequence[str], title: str) -> Figure:
    """Draw a curve of each class that has rows, against all others: of two the second's alone, and of many the worst.

    `kind` is "ROC" or "precision and recall"; `probs` has shape (N, C).
    """
    from sklearn import metrics

    figure, axes = _new_figure()
    if kind == "ROC":
        display, score = metrics.RocCurveDisplay, multiclass_auroc
        x, y = "false positive rate", "true positive rate"
    else:
        display, score = metrics.PrecisionRecallDisplay, multiclass_average_precision
        x, y = "recall (share of the class's rows found)", "precision (share of found rows right)"
    chance = {"color": "gray", "linestyle": ":", "linewidth": 1, "label": "_"}  # "_": not in the legend
    style = {"drop_intermediate": True, "plot_chance_level": True, "chance_level_kw": chance}
    sizes = labels.bincount(minlength=len(class_names)).tolist()
    numbers = [number for number, size in enumerate(sizes) if 0 < size < len(labels)]
    if len(numbers) > MAX_CURVES:
        title += f"\nthe worst {MAX_CURVES} of {len(numbers)} classes"
        scores = score(probs, labels, num_classes=len(class_names), average=None, validate_args=False)
        numbers = sorted(numbers, key=scores.__getitem__)[:MAX_CURVES]
    for number in numbers[-1:] if len(sizes) == 2 else numbers:
        true, name = (labels == number).long().numpy(), _label(class_names[number])
        display.from_predictions(true, probs[:, number].numpy(), name=name, ax=axes, **style)
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    if axes.get_legend():
        axes.legend(fontsize="medium" if len(class_names) <= 5 else "x-small")
    return figure


def reliability(probs: Mapping[str, Tensor], labels: Tensor, title: str) -> Figure:
    """Draw accuracy over confidence of each curve's `probs`, shape (N, C); a point's area is its number of rows."""
    from scipy.stats import binned_statistic

    figure, axes = _new_figure()
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", linewidth=1)
    lowest = 1.0
    for name, values in probs.items():
        confidence, preds = (column.numpy() for column in values.max(dim=1))
        columns = np.stack([np.ones(len(preds)), confidence, preds == labels.numpy()])
        sums = binned_statistic(confidence, columns, "sum", ECE_BINS, range=(0, 1)).statistic
        sizes, confidences, right = sums[:, sums[0] > 0]
        x, y, areas = confidences / sizes, right / sizes, 400 * sizes / sizes.sum() + 4
        lowest = min(lowest, float(x.min()))
        title_of_curve = f"{name}: calibration error {expected_calibration_error(values, labels):.3f}"
        [curve] = axes.plot(x, y, linewidth=1, label=title_of_curve)
        axes.scatter(x, y, s=areas, color=curve.get_color(), alpha=0.6)
    axes.set(title=title, xlabel="confidence (probability of the predicted class)", ylabel="accuracy")
    axes.set(xlim=(lowest - 0.03, 1.01), ylim=(-0.02, 1.04))
    axes.legend(loc="lower right")
    return figure


def coverage(probs: Tensor, labels: Tensor, title: str) -> Figure:
    """Draw the accuracy of the most confident rows over their share of all; `probs` has shape (N, C)."""
    figure, axes = _new_figure()
    confidence, preds = probs.max(dim=1)
    correct = (preds == labels)[confidence.argsort(descending=True, stable=True)].numpy().cumsum()
    kept = np.unique(np.linspace(1, len(correct), min(len(correct), 200)).astype(int))
    accuracy = correct[kept - 1] / kept
    ends = np.array([wilson_interval(int(correct[rows - 1]), int(rows)) for rows in kept])
    axes.plot(kept / len(correct), accuracy, label=f"accuracy of all rows {accuracy[-1]:.3f}")
    axes.fill_between(kept / len(correct), ends[:, 0], ends[:, 1], alpha=0.2, linewidth=0, label="95 % interval")
    axes.set(title=title, xlabel="coverage (share of rows kept, the most confident first)")
    axes.set(ylabel="accuracy of these rows", xlim=(0, 1.01), ylim=(max(0.0, float(accuracy.min()) - 0.1), 1.01))
    axes.legend(loc="lower left")
    return figure


def slices(metrics: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Draw the accuracy of each slice with its interval; `metrics` is what `accuracy_metrics` returned, by title."""
    figure, axes = _new_figure()
    names = [f"{name} ({row['rows']:,})" for name, row in metrics.items()]
    middle, low, high = np.array([[row[key] for row in metrics.values()] for key in ("acc", "acc_low", "acc_high")])
    axes.errorbar(middle, names, xerr=np.maximum(0, [middle - low, high - middle]), fmt="o", capsize=3)
    axes.set(title=title, xlabel="accuracy, with its 95 % interval")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.4)
    return figure
