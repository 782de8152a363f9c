"""Options of the command line that belong to no class."""

from dataclasses import dataclass
from typing import Literal

from lightning.pytorch.cli import LightningArgumentParser

from lit_bert.run.rooms import import_if_present


@dataclass
class FitOptions:
    """What `fit` ends with, and how often it saves.

    Args:
        test_after_fit: Whether `fit` ends with a test of the best checkpoint.
        export_after_fit: Whether `fit` ends with a folder that transformers loads, of the best checkpoint: `export`.
        checkpoint_minutes: Minutes between two checkpoints within an epoch; each epoch ends with one.
        name: Name of the run's folder and of its entry in TensorBoard; null makes one from recipe, data set and time.
    """

    test_after_fit: bool = True
    export_after_fit: bool = True
    checkpoint_minutes: float = 5.0
    name: str | None = None


@dataclass
class PredictOptions:
    """What `predict` reads and writes.

    Args:
        input: File of texts to predict in place of the data set's: .txt (one a line), .csv, .tsv, .jsonl or .parquet
            (of these --data.text_column); - for lines of standard input.
        output: File for the predictions; - for standard output. By default it is in the run's folder, or beside the
            input if there is none, or, if --input is -, standard output.
        format: Format of --output; null goes by its name, and is csv for standard output.
        keep: Columns of the input that are carried along, such as id,date.
        explain: Whether to add how much each word adds to the probability of the predicted class, to JSONL.
    """

    input: str | None = None
    output: str | None = None
    format: Literal["csv", "jsonl"] | None = None
    keep: str | None = None
    explain: bool = False


def add_options(parser: LightningArgumentParser, command: str) -> None:
    """Add the options of a command that belong neither to the Trainer nor to the module or data module."""
    parser.add_class_arguments(FitOptions, None, instantiate=False)
    if command == "predict":
        parser.add_class_arguments(PredictOptions, None, instantiate=False)
    if command == "fit" and (room := import_if_present("callbacks.distillation")):
        parser.add_class_arguments(room.Distillation, "distillation", instantiate=False)
        if "data.unlabelled" in parser.get_defaults(skip_validation=True):  # not of any data module
            parser.link_arguments("distillation.unlabelled", "data.unlabelled")
