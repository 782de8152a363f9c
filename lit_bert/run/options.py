"""Options of the command line that belong to no class."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class FitOptions:
    """What `fit` ends with, and how often it saves.

    Args:
        test_after_fit: Whether `fit` ends with a test of the best checkpoint.
        export_after_fit: Whether `fit` ends with a folder that transformers loads, of the best checkpoint: `export`.
        projector: Whether `fit` ends with the validation rows' [CLS] vectors in TensorBoard's projector.
        checkpoint_minutes: Minutes between two checkpoints within an epoch; each epoch ends with one.
        name: Name of the run's folder, and so of its entry in TensorBoard; null makes one of recipe, data set and time.
    """

    test_after_fit: bool = True
    export_after_fit: bool = True
    projector: bool = False
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
