"""Which rows form a batch, in what order, on which rank; and what a batch looks like.

Legend: B rows of a batch, T tokens of its longest row.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

POOL_BATCHES = 50
"""Batches per pool of random rows that are sorted by length together: enough to leave little padding."""


class LengthGroupedSampler(DistributedSampler[int]):
    """Orders rows so that each run of `batch_size` of them is a batch of rows of about equal length.

    The order is a function of (seed, epoch) alone. Without `shuffle` it is that of falling length and no row is
    repeated, so that metrics over several ranks count each row once. The longest batch comes first: running out of
    memory shows at once.

    It is a `DistributedSampler`, for use with PyTorch's own `BatchSampler`: Lightning tells such a one the epoch and
    leaves it in place, whereas it re-creates custom batch samplers and never tells them the epoch.

    Args:
        lengths: Tokens of each row, shape (rows,).
        batch_size: Rows per batch on each rank.
        shuffle: Whether to draw a new order each epoch.
        group_by_length: Whether to group rows of about equal length; if not, a shuffled order is a plain permutation.
        seed: Seed of the order.
        num_replicas: Ranks that share the rows.
        rank: This rank, from 0.
    """

    def __init__(
        self,
        lengths: np.ndarray[Any, np.dtype[np.integer[Any]]],
        batch_size: int,
        shuffle: bool,
        group_by_length: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        super().__init__(lengths, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.lengths = lengths
        self.batch_size = batch_size
        self.group_by_length = group_by_length

    def __len__(self) -> int:
        """Return the number of rows that this rank sees."""
        return len(range(self.rank, self._padded, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's row numbers."""
        return iter(self._order()[self.rank :: self.num_replicas].tolist())

    @property
    def _padded(self) -> int:
        """Rows over all ranks: in training every rank takes equally many, so a few rows may come twice."""
        rows = len(self.lengths)
        return -(-rows // self.num_replicas) * self.num_replicas if self.shuffle else rows

    def _order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the row numbers of the epoch, for all ranks: a batch of rank r is every num_replicas-th from r."""
        rows = len(self.lengths)
        if not self.shuffle:
            return np.argsort(-self.lengths, kind="stable") if self.group_by_length else np.arange(rows)
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(rows)
        order = np.concatenate([order, order[: self._padded - rows]])
        if not self.group_by_length:
            return order
        batch = self.batch_size * self.num_replicas
        pools = [order[start : start + batch * POOL_BATCHES] for start in range(0, len(order), batch * POOL_BATCHES)]
        order = np.concatenate([pool[np.argsort(-self.lengths[pool], kind="stable")] for pool in pools])
        whole = len(order) // batch * batch  # what is left over, a short last batch, stays last
        batches = random.permutation(order[:whole].reshape(-1, batch))
        if len(batches):
            longest = self.lengths[batches].max(axis=1).argmax()
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.ravel(), order[whole:]])


def collate(rows: list[dict[str, Any]], pad_token_id: int, length: int | None = None) -> dict[str, Tensor]:
    """Stack tokenised rows into a batch, padded on the right.

    Args:
        rows: Each with `input_ids` (a list of token ids), `label` (class number) and `index` (row of its split).
        pad_token_id: The tokenizer's padding token.
        length: T, tokens to pad to; None pads to the longest of `rows`.

    Returns:
        `input_ids` and `attention_mask`, shape (B, T); `labels` and `index`, shape (B,); all int64.

    For `[{"input_ids": [5, 6, 7], ...}, {"input_ids": [8], ...}]` and padding token 0, `input_ids` is
    `[[5, 6, 7], [8, 0, 0]]` and `attention_mask` is `[[1, 1, 1], [1, 0, 0]]`.
    """
    sizes = torch.tensor([len(row["input_ids"]) for row in rows])
    width = length or int(sizes.max())
    attention_mask = (torch.arange(width) < sizes[:, None]).long()
    input_ids = torch.full((len(rows), width), pad_token_id)
    input_ids[attention_mask.bool()] = torch.tensor([token for row in rows for token in row["input_ids"]])
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": torch.tensor([row["label"] for row in rows]),
        "index": torch.tensor([row["index"] for row in rows]),
    }
