"""Figures and tables for every logger that takes them: TensorBoard, Weights & Biases, MLflow.

A logger is known by its public methods, so none of these packages is needed; others, such as CSVLogger, are skipped.
"""

import io
import re
import textwrap
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ScalarLogger(TensorBoardLogger):
    """TensorBoard's logger without Lightning's `epoch`, and with test metrics, of one point each, behind the curves."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log scalars."""
        renamed = {re.sub("^test/", "when tested/", name): value for name, value in metrics.items() if name != "epoch"}
        super().log_metrics(renamed, step)


def takes_figures(logger: Any) -> bool:
    """Tell whether `log_figure` logs to a logger."""
    return isinstance(logger, TensorBoardLogger) or hasattr(logger, "log_image") or _is_mlflow(logger)


def log_figure(trainer: Trainer, tag: str, figure: "Figure", step: int) -> None:
    """Log a figure, on rank 0 and after `step` optimizer steps, under a tag such as "val/ROC"."""
    from PIL import Image

    for logger in _loggers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(tag, figure, step, close=False)
        elif hasattr(logger, "log_image"):
            figure.savefig(buffer := io.BytesIO(), format="png")
            logger.log_image(key=tag, images=[Image.open(buffer).convert("RGB")], step=step)
        elif _is_mlflow(logger):
            logger.experiment.log_figure(logger.run_id, figure, f"{tag}.png")


def log_table(trainer: Trainer, tag: str, columns: list[str], rows: list[list[str]], step: int) -> None:
    """Log a table of text, on rank 0 and after `step` optimizer steps."""
    for logger in _loggers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(tag, to_markdown(columns, rows), step)
        elif hasattr(logger, "log_table"):
            logger.log_table(key=tag, columns=columns, data=rows, step=step)
        elif _is_mlflow(logger):
            logger.experiment.log_text(logger.run_id, to_markdown(columns, rows), f"{tag}.md")


def _loggers(trainer: Trainer) -> list[Any]:
    return list(trainer.loggers) if trainer.is_global_zero else []


def _is_mlflow(logger: Any) -> bool:
    return hasattr(logger, "run_id") and all(hasattr(logger.experiment, name) for name in ("log_figure", "log_text"))


def to_markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table that shows every cell as it is; columns of numbers are aligned to the right."""
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(columns))]
    # Long cells get lines, or TensorBoard would make the other columns one letter wide.
    cells = [
        [cell if _is_number(cell) else "<br>".join(map(escape, textwrap.wrap(cell, 90))) for cell in row]
        for row in rows
    ]
    lines = [columns, ["---:" if right else "---" for right in numeric], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Return text that Markdown shows as it is: a character reference for all but letters, digits and spaces."""
    return "".join(c if c.isalnum() else " " if c.isspace() else f"&#{ord(c)};" for c in text)


def _is_number(cell: str) -> bool:
    return cell.isascii() and cell.replace(".", "", 1).isdigit()
