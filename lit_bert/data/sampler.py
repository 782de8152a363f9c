"""Which rows form a batch, in what order, on which rank."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

POOL_STEPS = 100
"""Optimizer steps per pool of random rows that are sorted by length together: enough to leave little padding."""

Rows = NDArray[np.int64]


class LengthGroupedSampler(DistributedSampler[tuple[int, float]]):
    """Orders rows so that each run of `batch_size` of them is a batch of rows of about equal length.

    In training, the rows of an optimizer step depend on seed and epoch alone, however they are spread over ranks and
    accumulated batches. The longest come first, so that running out of memory shows at once. In evaluation, whole
    batches of falling length are dealt to the ranks in turn; a rank for which none is left repeats the last one.

    It yields the number of a row and its weight in the loss, which is 0 for a row that is only repeated. In training,
    the weights make the gradient that of the mean loss over the rows of the optimizer step: Lightning averages over
    ranks and `accumulate` batches as if all were full (Lightning-AI/pytorch-lightning#19987).

    It is a `DistributedSampler` because Lightning tells only such a sampler the epoch, and leaves it in place.

    `lengths` are the tokens of each row, and `accumulate` batches of each rank make an optimizer step. Training ends an
    epoch after `limit` batches, or that share of them: Lightning's `limit_train_batches`. A resumed run goes on at
    `start`: an epoch, and how many of its batches are done.
    """

    def __init__(
        self,
        lengths: NDArray[Any],
        batch_size: int,
        shuffle: bool,
        group_by_length: bool = True,
        seed: int = 0,
        num_replicas: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        limit: float = 1.0,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(lengths, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.lengths, self.batch_size = lengths, batch_size
        self.group_by_length, self.accumulate, self.limit, self.start = group_by_length, accumulate, limit, start
        self.set_epoch(start[0])  # workers fetch their first batches before Lightning tells the epoch

    def __len__(self) -> int:
        return self.num_samples if self.shuffle else len(self.rows())  # rows of the whole epoch, even of a resumed one

    def __iter__(self) -> Iterator[tuple[int, float]]:
        epoch, done = self.start
        first = done * self.batch_size if epoch == self.epoch else 0
        return zip(self.rows()[first:].tolist(), self.weights()[first:].tolist(), strict=True)

    def rows(self) -> Rows:
        """Return this rank's row numbers of the whole epoch, in their order."""
        if self.shuffle:  # a few rows come twice: ranks with fewer batches than others would make those wait for ever
            order = self._training_order()
            repeated = np.resize(order[::-1], -len(order) % self.num_replicas)
            return np.concatenate([order, repeated])[self.rank :: self.num_replicas]
        order = np.argsort(-self.lengths, kind="stable") if self.group_by_length else np.arange(len(self.lengths))
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        return np.concatenate(batches[min(self.rank, len(batches) - 1) :: self.num_replicas])

    def weights(self) -> NDArray[np.float64]:
        """Return the weight in the loss of each of this rank's rows."""
        total = len(self.lengths)
        if not self.shuffle:
            return np.full(len(self), float(self.rank * self.batch_size < total))
        place = np.arange(self.rank, self.num_samples * self.num_replicas, self.num_replicas)  # among all ranks' rows
        batch = self.batch_size * self.num_replicas
        batches = int(-(-total // batch) * self.limit) if isinstance(self.limit, float) else self.limit
        total, step = min(total, batches * batch), batch * self.accumulate
        rows_of_step = np.minimum(step, total - place // step * step)
        return np.where(place < total, self.num_replicas * self.accumulate / np.maximum(rows_of_step, 1), 0.0)

    def _training_order(self) -> Rows:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        if not self.group_by_length:
            return order
        step = self.batch_size * self.num_replicas * self.accumulate
        pools = np.split(order, range(step * POOL_STEPS, len(order), step * POOL_STEPS))
        order = np.concatenate([pool[np.argsort(-self.lengths[pool], kind="stable")] for pool in pools])
        whole = len(order) // step * step  # what is left over, a short last step, stays last
        steps = random.permutation(order[:whole].reshape(-1, step))
        if len(steps):
            longest = self.lengths[steps].max(axis=1).argmax()
            steps[[0, longest]] = steps[[longest, 0]]
        return np.concatenate([steps.ravel(), order[whole:]])
