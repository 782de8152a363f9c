"""What `train.py predict` does: predictions of a split of the data set, or of texts from a file or a pipe."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.console import Console

from lit_bert.console import status
from lit_bert.errors import UserError
from lit_bert.files import display_path, next_free_path
from lit_bert.inference.predictions import STDOUT, write_predictions
from lit_bert.inference.predictor import Predictor
from lit_bert.inference.stream import predict_stream
from lit_bert.modeling.outputs import gather_outputs


def _output(settings: Any, run_dir: Path) -> tuple[str, str]:
    """Return where predictions go, and in which format."""
    output = settings.output
    if output is None and settings.input == STDOUT:
        output = STDOUT
    elif output is None:
        stem = "predictions" if settings.input is None else f"predictions-{Path(settings.input).stem}"
        output = str(next_free_path(run_dir / f"{stem}.{settings.format or 'csv'}"))
    return output, settings.format or ("jsonl" if Path(output).suffix == ".jsonl" else "csv")


def predict_split(trainer: Trainer, module: LightningModule, data: Any, settings: Any, run_dir: Path) -> None:
    """Predict the rows of the data module's `predict_split`, on all ranks, into one file in their order.

    Args:
        trainer: Predicts.
        module: The classifier.
        data: The data module.
        settings: `ckpt_path`, `input` (None), `output` and `format`, as the command line has them.
        run_dir: Where the file goes if `output` does not say.

    Raises:
        UserError: No row was predicted, or the file cannot be written.
    """
    batches = trainer.predict(module, datamodule=data, ckpt_path=settings.ckpt_path) or []
    outputs = gather_outputs(batches, deduplicate=True)  # type: ignore[arg-type]
    if not outputs:
        raise UserError("--trainer.limit_predict_batches: nothing was predicted")
    if trainer.is_global_zero and not settings.trainer.fast_dev_run:
        output, format = _output(settings, run_dir)
        write_predictions(output, format, outputs, data.splits[data.predict_split])
        if output != STDOUT:
            status("predict", f"{len(outputs['index']):,} predictions are in {display_path(output)}")


def predict_texts(trainer: Trainer, settings: Any, run_dir: Path) -> None:
    """Predict the texts of `--input`.

    Args:
        trainer: Says on which device, and how precisely.
        settings: As in `predict_split`, and `data.max_length`, `data.text_column` and `data.label_column`.
        run_dir: As in `predict_split`.

    Raises:
        UserError: Several devices are asked for, or a text cannot be read.
    """
    if trainer.world_size > 1:
        raise UserError(f"--input {settings.input}: it is read on one device; set --trainer.devices 1")
    device, precision = str(trainer.strategy.root_device), str(trainer.precision)
    predictor = Predictor(settings.ckpt_path, device, precision, settings.data.max_length)
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    output, format = _output(settings, run_dir)
    predict_stream(
        predictor, settings.input, output, format, settings.data.text_column, settings.data.label_column, console
    )
