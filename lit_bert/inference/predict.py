"""What `predict` does: predictions of a split of the data set, or of texts from a file or a pipe.

`settings` are the command line's, and `run_dir` is where the file goes if `--output` does not say.
"""

from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer

from lit_bert.console import status
from lit_bert.data.formats import STDIN, TableFormat
from lit_bert.errors import UserError
from lit_bert.files import display_path, next_free_path
from lit_bert.inference.predictions import STDOUT, PredictionWriter, RowFormat, write_predictions
from lit_bert.inference.predictor import Predictor
from lit_bert.inference.texts import TextPredictor
from lit_bert.modeling.outputs import gather_outputs
from lit_bert.run import ranks

if TYPE_CHECKING:
    from lit_bert.datamodule import TextClassificationDataModule


def predict_split(
    trainer: Trainer, module: LightningModule, data: "TextClassificationDataModule", settings: Namespace, run_dir: Path
) -> None:
    """Predict the rows of the data module's `predict_split`, on all ranks, into one file in their order."""
    for option, value in (("explain", "true" if settings.explain else None), ("keep", settings.keep)):
        if value is not None:
            raise UserError(f"--{option} {value}: it is for texts of a file or a pipe; name it with --input")
    batches = trainer.predict(module, datamodule=data, ckpt_path=settings.ckpt_path) or []
    outputs = gather_outputs(batches, deduplicate=True)  # type: ignore[arg-type]
    if not outputs:
        raise UserError("--trainer.limit_predict_batches: nothing was predicted")
    if trainer.is_global_zero and not settings.trainer.fast_dev_run:
        output, kind = _output(settings, run_dir)
        write_predictions(output, kind, outputs, data.rows("predict"))
        if output != STDOUT:
            status("predict", f"{len(outputs['index']):,} predictions are in {display_path(output)}")


def predict_texts(trainer: Trainer, settings: Namespace, run_dir: Path) -> None:
    """Predict the texts of `--input`, on all of the trainer's devices and with its precision."""
    ranks.check_launched_processes(trainer.world_size)
    with ranks.rank_zero_first():
        module = _text_predictor(trainer, settings, run_dir)
    try:
        trainer.predict(module, dataloaders=range(1), return_predictions=False)
    except SystemExit as stop:  # Lightning makes status 1 of Ctrl-C
        raise module.fault or stop from None
    if trainer.is_global_zero:
        module.print_summary()
    if module.fault:
        raise module.fault


def _text_predictor(trainer: Trainer, settings: Namespace, run_dir: Path) -> TextPredictor:
    """Return what the options say.

    Raises:
        UserError: Options do not go together.
    """
    data, device = settings.data, str(trainer.strategy.root_device)
    predictor = Predictor(settings.ckpt_path, device, str(trainer.precision), data.max_length)
    if trainer.world_size > 1 and settings.input == STDIN:
        raise UserError("--input -: a pipe is for one device; set --trainer.devices 1")
    output, kind = _output(settings, run_dir)
    pair_column = data.text_pair_column or predictor.text_pair_column
    kept = tuple(name.strip() for name in (settings.keep or "").split(",") if name.strip())
    if len(set(kept)) < len(kept):
        raise UserError(f"--keep {settings.keep}: a column comes twice; leave out one")
    if settings.explain and kind == "csv":
        raise UserError("--explain true: CSV has no cell for a list of words; set --format jsonl")
    format = RowFormat(kind, pair_column is not None, kept, settings.explain)
    PredictionWriter(StringIO(), predictor.class_names, format)  # it refuses columns to keep before any are read
    table = TableFormat(data.text_column, data.label_column, pair_column, data.delimiter, data.encoding)
    return TextPredictor(predictor, settings.input, output, format, table)


def _output(settings: Namespace, run_dir: Path) -> tuple[str, str]:
    """Return where predictions go, and in which format."""
    output = settings.output
    if output is None and settings.input == STDIN:
        output = STDOUT
    elif output is None:
        stem = "predictions" if settings.input is None else f"predictions-{Path(settings.input).stem}"
        output = str(next_free_path(run_dir / f"{stem}.{settings.format or 'csv'}"))
    if Path(output).is_dir() or not Path(output).name:
        raise UserError(f"--output {output}: this is a folder; give a file in it")
    return output, settings.format or ("jsonl" if Path(output).suffix == ".jsonl" else "csv")
