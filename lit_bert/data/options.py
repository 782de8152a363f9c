"""What the rows of a run depend on besides the tokenizer."""

from dataclasses import dataclass
from typing import Literal

from lit_bert.data.delimited import TABS
from lit_bert.data.encoding import LongText
from lit_bert.data.formats import TableFormat
from lit_bert.errors import UserError


@dataclass(frozen=True)
class DataOptions:
    """Which rows a run has, apart from the tokenizer: where they come from, how they are split, sampled and cut.

    Args:
        dataset: As the data module has it.
        text_column: Column of the texts.
        label_column: Column of the labels: names of classes, or whole numbers.
        text_pair_column: Column of each row's second text, if rows are pairs of texts.
        delimiter: What separates the columns of a CSV file; null is a comma, or in a .tsv file a tab.
        encoding: Encoding of lines that are not UTF-8, such as cp1252; null refuses them.
        class_names: Names of the classes, in the order of their numbers; null takes the data's own.
        holdout: Share of the training rows that are held out, class by class, for each split that is missing.
        folds: Number of folds of the training and validation rows, for cross-validation; null keeps the splits.
        fold: The fold to validate on, from 1; the others are trained on.
        drop_unlabelled: Whether training and validation rows without a label are left out; otherwise they are an error.
        drop_leaked: Whether training rows whose text is among the validation or test rows are left out.
        train_rows: Training rows, drawn by `shuffle(sample_seed).select(range(n))`; null takes all.
        val_rows: Validation rows, drawn the same way; null takes all.
        test_rows: Test rows, drawn the same way; null takes all.
        sample_seed: Seed of these draws.
        unlabelled: File of texts without a label, of any format that `predict --input` takes; or "rest": the training
            rows that `train_rows` leaves out, without their labels. They join the training rows with label -100, so
            that the loss of the labels leaves them out: `Distillation` gives them one. Those that are alike to a
            validation or test row are left out.
        val_split: Split that `fit` and `validate` evaluate on. Choosing the best checkpoint on "test" makes its score
            there too high.
        max_length: Tokens of a sequence at most, special tokens included; null is what the encoder can take.
        long_text: What is read of longer texts: their "head", or "head_tail" (a quarter of the tokens from the
            beginning, the rest from the end).

    Raises:
        UserError: A value is out of range.
    """

    dataset: str | dict[str, str] = "cornell-movie-review-data/rotten_tomatoes"
    text_column: str = "text"
    label_column: str = "label"
    text_pair_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None
    class_names: list[str] | None = None
    train_rows: int | None = None
    val_rows: int | None = None
    test_rows: int | None = None
    sample_seed: int = 123
    holdout: float = 0.1
    folds: int | None = None
    fold: int = 1
    drop_unlabelled: bool = False
    drop_leaked: bool = False
    unlabelled: str | None = None
    val_split: Literal["validation", "test"] = "validation"
    max_length: int | None = None
    long_text: LongText = "head"

    @property
    def format(self) -> TableFormat:
        """The columns of a table that are read."""
        return TableFormat(self.text_column, self.label_column, self.text_pair_column, self.delimiter, self.encoding)

    def __post_init__(self) -> None:
        counts = {"train_rows": self.train_rows, "val_rows": self.val_rows, "test_rows": self.test_rows}
        _check_least(1, **counts, fold=self.fold)
        _check_least(0, sample_seed=self.sample_seed)
        _check_least(3, max_length=self.max_length)
        _check_least(2, folds=self.folds)
        names, delimiter = self.class_names, self.delimiter
        if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
            raise UserError(f"--data.class_names {names}: at least two different names are needed")
        if self.folds and self.val_split == "test":
            raise UserError("--data.val_split test: folds are of the training and validation rows; leave one out")
        if self.folds and self.fold > self.folds:
            raise UserError(f"--data.fold {self.fold}: it must be one of 1 to --data.folds {self.folds}")
        if not 0 < self.holdout < 0.5:
            raise UserError(f"--data.holdout {self.holdout}: it must be between 0 and 0.5")
        if delimiter not in (None, *TABS) and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise UserError(f"--data.delimiter {delimiter!r}: give one character, such as ';'")
        try:
            ends = "\n".encode(self.encoding or "utf-8")
        except LookupError:
            ends = b""
        if ends != b"\n":
            raise UserError(f"--data.encoding {self.encoding}: it must be one that extends ASCII, such as cp1252")
        if self.long_text != "head" and self.text_pair_column:
            raise UserError(f"--data.long_text {self.long_text}: of pairs (--data.text_pair_column), heads are read")


def check_batching(batch_size: int, eval_batch_size: int, num_workers: int, padding: str | list[int] | None) -> None:
    """Raise a UserError if one of the data module's options of these names is out of range."""
    _check_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
    _check_least(0, num_workers=num_workers)
    if isinstance(padding, list) and (padding != sorted(set(padding)) or min(padding, default=0) < 1):
        raise UserError(f"--data.padding {padding}: give rising lengths of at least 1, such as [16, 32, 64]")


def _check_least(least: int, **options: int | None) -> None:
    for option, value in options.items():
        if value is not None and value < least:
            raise UserError(f"--data.{option} {value}: it must be at least {least}")
