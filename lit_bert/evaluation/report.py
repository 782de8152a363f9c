"""Results for people, as tables, and for programs, as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lit_bert.files import atomic_write

MAX_CLASSES, NAME_WIDTH = 15, 22
"""Classes that fit on a screen, the worst if there are more; columns of a class's name, so that a table fits into 80.
"""


def print_results(results: Mapping[str, dict[str, Any]], console: Console | None = None) -> None:
    """Print a row for each split, with its baselines below it; then one for each class of the last split.

    `results` are those of `evaluate_splits`; None for `console` prints to standard output.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    table = make_table("split", "rows", "accuracy", "95 % interval", "macro F1", "loss")
    for split, metrics in results.items():
        table.add_row(split, *_accuracy_cells(metrics), f"{metrics['loss']:.4f}")
        for name, baseline in metrics.get("baselines", {}).items():
            table.add_row(f"  {name}", *_accuracy_cells(baseline), "", style="dim")
    console.print(table)
    _print_classes(console, split, metrics["classes"])
    present, classes = metrics["classes_with_rows"], len(metrics["classes"])
    auroc = "" if metrics["auroc"] is None else f", AUROC {metrics['auroc']:.4f}"
    where = f" (of the {present} of {classes} classes that have rows)" if present < classes else ""
    console.print(f"balanced accuracy {metrics['balanced_acc']:.4f}{auroc}{where}")


def _print_classes(console: Console, split: str, classes: Mapping[str, dict[str, Any]]) -> None:
    shown = list(classes)
    if len(classes) > MAX_CLASSES:
        present = [name for name in classes if classes[name]["rows"]]
        shown = sorted(present, key=lambda name: classes[name]["f1"])[:MAX_CLASSES]
    table = make_table(f"class ({split})", "rows", "precision", "recall", "95 % interval", "F1")
    for name in shown:
        metrics, title = classes[name], Text(" ".join(name.split()))
        title.truncate(NAME_WIDTH, overflow="ellipsis")
        numbers = (metrics[key] for key in ("precision", "recall", "f1"))
        precision, recall, f1 = ("-" if number is None else f"{number:.4f}" for number in numbers)
        interval = _interval(metrics, "recall") if metrics["rows"] else "-"
        table.add_row(title, f"{metrics['rows']:,}", precision, recall, interval, f1)
    console.print(table)
    if len(shown) < len(classes):
        console.print(f"the {len(shown)} classes with the lowest F1, of {len(classes)}; metrics.json has them all")


def make_table(*titles: str) -> Table:
    """Return an empty table with these columns, the first of them text and the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    return table


def _interval(metrics: Mapping[str, Any], key: str = "acc") -> str:
    return f"{metrics[f'{key}_low']:.4f} to {metrics[f'{key}_high']:.4f}"


def _accuracy_cells(metrics: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return f"{metrics['rows']:,}", f"{metrics['acc']:.4f}", _interval(metrics), f"{metrics['f1']:.4f}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, the whole file or nothing."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
