"""What steps return of the rows of an epoch, joined from all ranks."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor, distributed

from lit_bert.data.collate import IGNORED


class SplitOutputs(TypedDict, total=False):
    """The rows of a split after an epoch: probabilities `probs` (N, C), and of shape (N,) the other columns.

    `index` is each row's place in its split, if batches have it. Training rows have no `probs`.
    """

    index: Tensor
    labels: Tensor
    preds: Tensor
    probs: Tensor
    loss: Tensor


def gather_outputs(batches: Iterable[dict[str, Tensor]], deduplicate: bool = False) -> dict[str, Tensor]:
    """Join batches from all ranks in main memory, in the order of their `index` if that tells rows apart.

    Rows whose label is -100 are left out, and with `deduplicate` all but the first row of an `index`: samplers repeat
    rows so that all ranks have equally many batches. The result is empty if no rank has rows.
    """
    own = _concatenate(batches)
    shares = [own]
    if distributed.is_available() and distributed.is_initialized():
        shares *= distributed.get_world_size()
        distributed.all_gather_object(shares, own)
    joined = _concatenate(share for share in shares if share)
    if "labels" in joined:
        known = joined["labels"] != IGNORED
        joined = {name: value[known] for name, value in joined.items()}
    if "index" in joined:
        index, order = joined["index"].sort(stable=True)
        first = torch.cat([index[:1] >= 0, index.diff() > 0])
        if deduplicate or first.all():  # else it may begin anew in each batch
            return {name: value[order[first]] for name, value in joined.items()}
    return joined


def _concatenate(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    listed = list(parts)
    return {name: torch.cat([part[name] for part in listed]).cpu() for name in (listed[0] if listed else ())}
