"""Splits as token ids, kept in the cache: sampled, tokenised once, read by every process."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from lit_bert.data import cache
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 3
"""Of the rows in the cache; a change of it leaves older ones behind."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TokenizedSplits:
    """Rows of "train", "val" and "test", memory-mapped, with `text`, `label`, `index` and `input_ids`.

    Args:
        splits: The rows, by the split.
        class_names: Names of the classes, in the order of their numbers.
        max_length: Tokens that a row has at most.
        pad_token_id: The tokenizer's padding token.
        tokenizer_files: The texts of the tokenizer's files, by name.
    """

    splits: dict[str, "Dataset"]
    class_names: list[str]
    max_length: int
    pad_token_id: int
    tokenizer_files: dict[str, str]


def fingerprint(*depends: Any) -> str:
    """Return a key made of everything that tokenised rows depend on."""
    return hashlib.sha256(json.dumps([FORMAT, *depends], sort_keys=True).encode()).hexdigest()[:20]


def folder_of(key: str) -> Path:
    """Return the folder in the cache that has the rows of a key."""
    return cache.cache_dir() / "tokenised" / key


def write(
    key: str,
    load: Callable[[], Mapping[str, "Dataset"]],
    tokenizer: Any,
    tokenizer_files: dict[str, str],
    max_length: int,
) -> None:
    """Tokenise splits into the cache, unless it has them; shows progress.

    Args:
        key: Their fingerprint.
        load: Returns the rows of each split, with `text`, `label` and `index`.
        tokenizer: Tokenises.
        tokenizer_files: Its files, for `TokenizedSplits`.
        max_length: Tokens kept of a row.
    """
    with cache.cached_dir(folder_of(key)) as folder:
        if folder is None:
            return
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        splits = load()
        about = {
            "class_names": list(splits["train"].features["label"].names),
            "max_length": max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "tokenizer_files": tokenizer_files,
        }
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        for name in SPLITS:
            splits[name].map(
                lambda rows: {"input_ids": tokenizer(rows["text"], truncation=True, max_length=max_length).input_ids},
                batched=True,
                cache_file_name=str(folder / f"{name}.arrow"),
                writer_batch_size=10_000,
                desc=f"Tokenising {name} rows",
                new_fingerprint=f"{key}-{name}",
            )


def read_about(key: str) -> dict[str, Any]:
    """Return what `TokenizedSplits` has beside the rows."""
    about: dict[str, Any] = json.loads((folder_of(key) / "about.json").read_text("utf-8"))
    return about


def read(key: str) -> TokenizedSplits:
    """Map the rows of a key from the cache."""
    from datasets import Dataset

    splits = {name: Dataset.from_file(str(folder_of(key) / f"{name}.arrow")) for name in SPLITS}
    return TokenizedSplits(splits, **read_about(key))


def sample(rows: "Dataset", count: int | None, seed: int, where: str) -> "Dataset":
    """Draw rows by `shuffle(seed).select(range(count))`; all, in their order, if the count is None.

    Args:
        rows: To draw from.
        count: How many.
        seed: Of the draw.
        where: How a message begins: the option, "{}" for its value, and the split's name.

    Raises:
        UserError: There are not that many.
    """
    if count is None:
        return rows
    if count > len(rows):
        raise UserError(f"{where.format(count)} has {len(rows)} rows; ask for at most that many, or null for all")
    return rows.shuffle(seed=seed).select(range(count))


def texts(rows: "Dataset", index: Tensor) -> tuple[list[str], list[int]]:
    """Return the sentences and token counts of some rows of a split.

    Args:
        rows: Of `TokenizedSplits.splits`.
        index: The rows' places in their split, shape (N,), as batches have them.
    """
    table = rows.data
    places = table.column("index").to_numpy()
    order = places.argsort()
    chosen = pa.array(order[np.searchsorted(places, index.numpy(), sorter=order)])
    lengths = pc.list_value_length(table.column("input_ids"))
    return table.column("text").take(chosen).to_pylist(), lengths.take(chosen).to_pylist()
