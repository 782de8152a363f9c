"""What the rows of a run depend on besides the tokenizer."""

from dataclasses import dataclass
from typing import Literal

from lit_bert.data.encoding import LongText
from lit_bert.data.formats import TableFormat
from lit_bert.errors import UserError


@dataclass(frozen=True)
class DataOptions:
    """The data module's options of the same names; those of a table's columns are in `format`."""

    dataset: str | dict[str, str]
    format: TableFormat
    class_names: list[str] | None
    train_rows: int | None
    val_rows: int | None
    test_rows: int | None
    sample_seed: int
    holdout: float
    folds: int | None
    fold: int
    drop_unlabelled: bool
    drop_leaked: bool
    val_split: Literal["validation", "test"]
    max_length: int | None
    long_text: LongText

    def __post_init__(self) -> None:
        counts = {"train_rows": self.train_rows, "val_rows": self.val_rows, "test_rows": self.test_rows}
        _check_least(1, **counts, fold=self.fold)
        _check_least(0, sample_seed=self.sample_seed)
        _check_least(3, max_length=self.max_length)
        _check_least(2, folds=self.folds)
        names, delimiter = self.class_names, self.format.delimiter
        if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
            raise UserError(f"--data.class_names {names}: at least two different names are needed")
        if self.folds and self.val_split == "test":
            raise UserError("--data.val_split test: folds are of the training and validation rows; leave one out")
        if self.folds and self.fold > self.folds:
            raise UserError(f"--data.fold {self.fold}: it must be one of 1 to --data.folds {self.folds}")
        if not 0 < self.holdout < 0.5:
            raise UserError(f"--data.holdout {self.holdout}: it must be between 0 and 0.5")
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise UserError(f"--data.delimiter {delimiter!r}: give one character, such as ';'")
        if self.long_text != "head" and self.format.text_pair_column:
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
