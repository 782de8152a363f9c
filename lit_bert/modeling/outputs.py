"""What steps return of the rows of an epoch, joined from all ranks."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor, distributed

from lit_bert.data.collate import IGNORED


class SplitOutputs(TypedDict, total=False):
    """The rows of a split after an epoch, N of them, with C classes; all in main memory.

    `index` (N,) is each row's place in its split, `labels` and `preds` (N,) are class numbers, `probs` (N, C) are
    probabilities and `loss` (N,) is the loss of each row. Training rows have no `probs`, and there is an `index` only
    if batches have one.
    """

    index: Tensor
    labels: Tensor
    preds: Tensor
    probs: Tensor
    loss: Tensor


def gather_outputs(batches: Iterable[dict[str, Tensor]], deduplicate: bool = False) -> dict[str, Tensor]:
    """Join batches from all ranks, in the order of their `index` if that tells rows apart, else as they come.

    Rows whose label is -100 are left out, and with `deduplicate` all but the first row of an `index`: a sampler such as
    `LengthGroupedSampler` repeats rows so that all ranks have equally many batches. Every rank gets the result in main
    memory; it is empty if no rank has rows.
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
    if "index" not in joined:
        return joined
    order = joined["index"].argsort(stable=True)
    index = joined["index"][order]
    first = torch.cat([index[:1] >= 0, index[1:] > index[:-1]])
    if not deduplicate and not first.all():  # the index is not unique; it may begin anew in each batch
        return joined
    return {name: value[order[first]] for name, value in joined.items()}


def _concatenate(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    listed = list(parts)
    return {name: torch.cat([part[name] for part in listed]).cpu() for name in (listed[0] if listed else ())}
