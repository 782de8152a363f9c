"""What the rows of a run depend on besides the tokenizer."""

from dataclasses import dataclass
from typing import Literal

from lit_bert.data.encoding import LongText
from lit_bert.data.formats import TableFormat
from lit_bert.errors import UserError


@dataclass(frozen=True)
class DataOptions:
    """The data module's options of the same names; those of a table's columns are in `format`.

    Raises:
        UserError: A value is out of range, or two of them exclude each other.
    """

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
        check_least("train_rows", self.train_rows, 1)
        check_least("val_rows", self.val_rows, 1)
        check_least("test_rows", self.test_rows, 1)
        check_least("sample_seed", self.sample_seed, 0)
        check_least("max_length", self.max_length, 3)
        names, delimiter = self.class_names, self.format.delimiter
        if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
            raise UserError(f"--data.class_names {names}: at least two different names are needed")
        if self.folds is not None and self.val_split == "test":
            problem = "folds are of the training and validation rows; leave one of the two out"
            raise UserError(f"--data.val_split test: {problem}")
        if self.folds is not None and (self.folds < 2 or not 1 <= self.fold <= self.folds):
            problem = f"give at least 2 folds, and one of 1 to {self.folds}"
            raise UserError(f"--data.folds {self.folds} --data.fold {self.fold}: {problem}")
        if not 0 < self.holdout < 0.5:
            raise UserError(f"--data.holdout {self.holdout}: it must be between 0 and 0.5")
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise UserError(f"--data.delimiter {delimiter!r}: give one character, such as ';'")
        if self.long_text != "head" and self.format.text_pair_column:
            problem = "of pairs (--data.text_pair_column), heads are read"
            raise UserError(f"--data.long_text {self.long_text}: {problem}")


def check_batching(batch_size: int, eval_batch_size: int, num_workers: int, padding: str | list[int] | None) -> None:
    """Check the data module's options of these names.

    Raises:
        UserError: A value is out of range.
    """
    check_least("batch_size", batch_size, 1)
    check_least("eval_batch_size", eval_batch_size, 1)
    check_least("num_workers", num_workers, 0)
    if isinstance(padding, list) and (padding != sorted(set(padding)) or min(padding, default=0) < 1):
        raise UserError(f"--data.padding {padding}: give rising lengths of at least 1, such as [16, 32, 64]")


def check_least(option: str, value: int | None, least: int) -> None:
    """Check that an option of the data module is not below what it may be at least."""
    if value is not None and value < least:
        raise UserError(f"--data.{option} {value}: it must be at least {least}")
