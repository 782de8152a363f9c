"""What the steps of an epoch return, joined from all ranks."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import Tensor, distributed


class SplitOutputs(TypedDict, total=False):
    """The rows of a split after an epoch, N of them, with C classes; each in main memory.

    `index` (N,) is each row's place in its split, `labels` and `preds` (N,) are class numbers, `probs` (N, C) are
    probabilities and `loss` (N,) is each row's own. Of training rows there are `labels` and `preds` alone, and `index`
    where batches have one.
    """

    index: Tensor
    labels: Tensor
    preds: Tensor
    probs: Tensor
    loss: Tensor


def gather_outputs(batches: Iterable[dict[str, Tensor]], deduplicate: bool = False) -> dict[str, Tensor]:
    """Join batches from all ranks, in the order of their `index` where that tells rows apart, else as they come.

    Of rows with the same `index`, `deduplicate` keeps one: a sampler such as `LengthGroupedSampler` repeats rows so
    that all ranks have equally many batches. Every rank gets the result in main memory; it is empty if none has rows.
    """
    own = _concatenate(batches)
    shares = [own]
    if distributed.is_available() and distributed.is_initialized():
        shares *= distributed.get_world_size()
        distributed.all_gather_object(shares, own)
    joined = _concatenate(share for share in shares if share)
    if "index" not in joined:
        return joined
    order = joined["index"].argsort(stable=True)
    index = joined["index"][order]
    first = torch.cat([index[:1] >= 0, index[1:] > index[:-1]])
    if not deduplicate and not first.all():  # such as an index that begins anew in each batch
        return joined
    return {name: value[order[first]] for name, value in joined.items()}


def _concatenate(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    listed = list(parts)
    return {name: torch.cat([part[name] for part in listed]).cpu() for name in (listed[0] if listed else ())}
