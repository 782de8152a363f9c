"""The predictions file: one row per sentence, in the order of the data."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from lit_bert import files

if TYPE_CHECKING:
    from datasets import Dataset


def gather(batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join batches from all ranks, each row once, in the order of `index`.

    Args:
        batches: Of this rank, with the same names, among them `index`; each value's first dimension is the rows'.

    Returns:
        The batches as one, in the main memory of every rank; nothing if no rank has any.
    """
    listed = list(batches)
    mine = {name: torch.cat([batch[name] for batch in listed]).cpu() for name in (listed[0] if listed else ())}
    shares = [mine]
    if distributed.is_available() and distributed.is_initialized():
        shares *= distributed.get_world_size()
        distributed.all_gather_object(shares, mine)
    shares = [share for share in shares if share]
    if not shares:
        return {}
    joined = {name: torch.cat([share[name] for share in shares]) for name in shares[0]}
    order = joined["index"].argsort(stable=True)
    index = joined["index"][order]
    order = order[torch.cat([index[:1] >= 0, index[1:] > index[:-1]])]
    return {name: value[order] for name, value in joined.items()}


def write(path: Path, predictions: dict[str, Tensor], rows: "Dataset") -> None:
    """Write `index,text,label,pred,score,prob_<class>...` as CSV; `score` is the probability of `pred`.

    Args:
        path: The file.
        predictions: What `gather` returned.
        rows: The rows that were predicted, with `index`, `text` and `label`.
    """
    names = rows.features["label"].names
    place = {index: row for row, index in enumerate(rows["index"])}
    texts, labels = rows["text"], rows["label"]
    with files.replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "text", "label", "pred", "score", *(f"prob_{name}" for name in names)])
        for index, pred, probs in zip(
            *(predictions[name].tolist() for name in ("index", "pred", "probs")), strict=True
        ):
            row = place[index]
            numbers = [f"{value:.6f}" for value in (probs[pred], *probs)]
            writer.writerow([index, texts[row], names[labels[row]], names[pred], *numbers])
