"""What the steps of an epoch return, joined from all ranks."""

from collections.abc import Iterable
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, distributed

from lit_bert.errors import UserError


class SplitOutputs(TypedDict, total=False):
    """The rows of a split after an epoch, N of them, with C classes; each in main memory.

    `index` (N,) is each row's place in its split, `labels` and `preds` (N,) are class numbers, `probs` (N, C) are
    probabilities and `loss` (N,) is each row's own. Training rows have no `probs`, and an `index` if batches have one.
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


def predictions(logits: Tensor) -> dict[str, Tensor]:
    """Return `preds` (B,) and `probs` (B, C) of logits (B, C)."""
    probs = logits.softmax(dim=-1)
    return {"preds": probs.argmax(dim=-1), "probs": probs}


def check_losses(losses: Tensor, labels: Tensor) -> Tensor:
    """Return losses if there is one for each row: only so can rows be weighted exactly over ranks and accumulation."""
    if losses.shape != labels.shape:
        raise UserError(
            f"compute_loss returned a tensor of shape {tuple(losses.shape)} for {len(labels)} rows; return each row's "
            'loss, as cross_entropy does with reduction="none"'
        )
    return losses


def with_index(batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a batch with its `index` (B,), if it has one."""
    return ({"index": batch["index"]} if "index" in batch else {}) | outputs


class EpochOutputs:
    """What steps returned in this epoch, on this rank; and the rows of the last whole epoch, of all ranks."""

    def __init__(self) -> None:
        self.epochs: dict[str, SplitOutputs] = {}
        self._validated_step = -1
        self.forget_steps()

    def forget_steps(self) -> None:
        """Drop what an epoch that was broken off has left."""
        self._steps: dict[str, list[dict[str, Tensor]]] = {"train": [], "val": [], "test": []}

    def add(self, split: str, batch: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """Keep the outputs of a step until the epoch ends."""
        self._steps[split].append(with_index(batch, outputs))

    def end_epoch(self, split: str, loader: Any, step: int) -> SplitOutputs:
        """Return the rows of all ranks, nothing if there are none; every rank calls it, with its loader."""
        repeats_rows = getattr(getattr(loader, "sampler", None), "repeats_rows", False)
        outputs = cast(SplitOutputs, gather_outputs(self._steps[split], deduplicate=repeats_rows))
        self.epochs[split], self._steps[split] = outputs, []
        self._validated_step = step if split == "val" else self._validated_step
        return outputs

    def to(self, device: torch.device) -> None:
        """Move what a checkpoint brought of this epoch."""
        for outputs in self._steps["train"]:
            outputs.update({name: value.to(device) for name, value in outputs.items()})

    def state_dict(self, step: int) -> dict[str, Any]:
        """Return this epoch's training rows so far, and the validation rows if these very weights were validated."""
        val = self.epochs.get("val", {}) if self._validated_step == step else {}
        return {"val_outputs": val, "train_outputs": gather_outputs(self._steps["train"])}

    def load_state_dict(self, checkpoint: dict[str, Any], is_global_zero: bool) -> None:
        """Go on from there."""
        self.epochs["val"], self._validated_step = checkpoint.get("val_outputs", {}), checkpoint["global_step"]
        rows = checkpoint.get("train_outputs", {})
        self._steps["train"] = [rows] if rows and is_global_zero else []
