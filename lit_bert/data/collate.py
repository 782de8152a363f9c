"""What a batch of B rows looks like, the longest of which has T tokens."""

import signal
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_bert.data.sampler import LengthGroupedSampler

if TYPE_CHECKING:
    from datasets import Dataset

FIXED_LENGTHS = (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
"""Lengths that batches are padded to on a GPU, so that training records a CUDA graph for each of them."""

IGNORED = -100
"""Label of a row that counts neither in the loss nor in metrics, as in `torch.nn.functional.cross_entropy`."""


def padded_lengths(padding: str | list[int] | None, max_length: int, on_gpu: bool) -> list[int]:
    """Return the lengths that batches are padded to, rising; none if each is padded to its longest row."""
    if isinstance(padding, list):
        return padding
    if padding is None and on_gpu:
        return [*(length for length in FIXED_LENGTHS if length < max_length), max_length]
    return [max_length] if padding == "max_length" else []


def collate(rows: list[dict[str, Any]], pad_token_id: int, lengths: Sequence[int] = ()) -> dict[str, Tensor]:
    """Stack tokenised rows into a batch, padded on the right.

    Rows have `input_ids`, `label` and `index`; those of pairs may have `token_type_ids`, and those that a sampler has
    weighed a `weight`. T is the first of `lengths`, which rise, that holds the longest row, or else that row's length.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, shape (B, T); `labels` and `index`, shape (B,); all int64;
        and `weights`, shape (B,), float32, if rows have them. There is no `attention_mask` if nothing is padded, unless
        `lengths` are given: a mask costs time, and a GPU would have to be asked whether it masks anything.
    """
    sizes = torch.tensor([len(row["input_ids"]) for row in rows])
    longest = int(sizes.max())
    width = next((length for length in lengths if length >= longest), longest)
    attention_mask = (torch.arange(width) < sizes[:, None]).long()
    batch = {}
    for name, padding in (("input_ids", pad_token_id), ("token_type_ids", 0)):
        if name in rows[0]:
            batch[name] = torch.full((len(rows), width), padding)
            batch[name][attention_mask.bool()] = torch.tensor([token for row in rows for token in row[name]])
    if lengths or int(sizes.min()) < width:
        batch["attention_mask"] = attention_mask
    batch["labels"] = torch.tensor([row["label"] for row in rows])
    batch["index"] = torch.tensor([row["index"] for row in rows])
    if "weight" in rows[0]:
        batch["weights"] = torch.tensor([row["weight"] for row in rows])
    return batch


class WeightedRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenised rows by what a sampler yields: a row's number, or that and its weight in the loss.

    A row of weight 0 is only repeated, so that ranks have equally many batches: its label is -100.
    """

    def __init__(self, rows: "Dataset") -> None:
        columns = ("input_ids", "token_type_ids", "label", "index")
        self.rows = rows.select_columns([name for name in columns if name in rows.column_names])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, float]) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[int | tuple[int, float]]) -> list[dict[str, Any]]:
        """Return the rows of a batch."""
        rows: list[dict[str, Any]] = self.rows.__getitems__([key[0] if isinstance(key, tuple) else key for key in keys])
        for row, key in zip(rows, keys, strict=True):
            if isinstance(key, tuple):
                row |= {"weight": key[1], "label": row["label"] if key[1] else IGNORED}
        return rows


def make_loader(
    rows: "Dataset", sampler: LengthGroupedSampler, pad_token_id: int, lengths: Sequence[int], num_workers: int
) -> DataLoader[Any]:
    """Return the loader of the batches that a sampler makes of rows."""
    return DataLoader(
        WeightedRows(rows),
        batch_size=sampler.batch_size,
        sampler=sampler,
        collate_fn=partial(collate, pad_token_id=pad_token_id, lengths=lengths),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # without it, each epoch draws a number that dropout misses in a resumed run
    )


def _ignore_signals(worker: int) -> None:
    """Leave signals that a terminal or SLURM sends to all processes to the training process."""
    for name in {"SIGINT", "SIGHUP", "SIGUSR1"}.intersection(signal.Signals.__members__):
        signal.signal(signal.Signals[name], signal.SIG_IGN)
