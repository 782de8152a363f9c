"""What a batch looks like.

Legend: B rows of a batch, T tokens of its longest row.
"""

import signal
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_bert.data.sampler import LengthGroupedSampler

FIXED_LENGTHS = (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
"""Lengths that batches are padded to on a GPU, for each of which training records a CUDA graph."""


def padded_length(longest: int, lengths: Sequence[int]) -> int:
    """Return the smallest of `lengths`, which rise, that holds `longest` tokens; if none does, `longest` itself."""
    return next((length for length in lengths if length >= longest), longest)


def collate(rows: list[dict[str, Any]], pad_token_id: int, lengths: Sequence[int] = ()) -> dict[str, Tensor]:
    """Stack tokenised rows into a batch, padded on the right.

    Args:
        rows: Each with `input_ids` (a list of token ids), `label` (class number) and `index` (row of its split); those
            of pairs may have `token_type_ids`, too.
        pad_token_id: The tokenizer's padding token.
        lengths: What T may be, rising: `padded_length` tells which it is. By default it is the longest row's length.

    Returns:
        `input_ids`, `attention_mask` and `token_type_ids`, shape (B, T); `labels` and `index`, shape (B,); all int64.
        There is no `attention_mask` if nothing is padded, unless `lengths` are given: a mask costs time, and a GPU
        would have to be asked whether it masks anything.

    Token ids `[5, 6, 7]` and `[8]`, padded with 0, become `[[5, 6, 7], [8, 0, 0]]`, the mask `[[1, 1, 1], [1, 0, 0]]`.
    """
    sizes = torch.tensor([len(row["input_ids"]) for row in rows])
    width = padded_length(int(sizes.max()), lengths)
    attention_mask = (torch.arange(width) < sizes[:, None]).long()
    batch = {}
    for name, padding in (("input_ids", pad_token_id), ("token_type_ids", 0)):
        if name in rows[0]:
            batch[name] = torch.full((len(rows), width), padding)
            batch[name][attention_mask.bool()] = torch.tensor([id for row in rows for id in row[name]])
    return {
        **batch,
        **({"attention_mask": attention_mask} if lengths or int(sizes.min()) < width else {}),
        "labels": torch.tensor([row["label"] for row in rows]),
        "index": torch.tensor([row["index"] for row in rows]),
    }


def make_loader(
    rows: Any,
    sampler: LengthGroupedSampler,
    pad_token_id: int,
    lengths: Sequence[int],
    num_workers: int,
) -> DataLoader[Any]:
    """Return the loader of the batches that a sampler makes of rows, as `collate` is told to."""
    return DataLoader(
        rows,
        batch_size=sampler.batch_size,
        sampler=sampler,
        collate_fn=partial(collate, pad_token_id=pad_token_id, lengths=lengths),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # or each epoch would draw a number that dropout misses in a resumed run
    )


def _ignore_signals(worker: int) -> None:
    """Leave to the training process what to do when a terminal or SLURM sends a signal to all of them."""
    for name in {"SIGINT", "SIGHUP", "SIGUSR1"}.intersection(dir(signal)):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
