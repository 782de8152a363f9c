"""Splits as token ids, kept in the cache: sampled, tokenised once, read by every process."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from lit_bert.data.cache import cache_dir, cached_dir
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 4
"""Of the rows in the cache; a change of it leaves older ones behind."""

SPLITS = ("train", "val", "test")


class TokenizedSplits(NamedTuple):
    """Rows of "train", "val" and "test", memory-mapped, with `text`, `label`, `index` and `input_ids`.

    `max_length` is the most tokens that a row has, `tokenizer_files` are the texts of the tokenizer's files by name.
    """

    splits: dict[str, "Dataset"]
    class_names: list[str]
    max_length: int
    pad_token_id: int
    tokenizer_files: dict[str, str]


def fingerprint(*depends: Any) -> str:
    """Return a key made of everything that tokenised rows depend on."""
    return hashlib.sha256(json.dumps([FORMAT, *depends], sort_keys=True).encode()).hexdigest()[:20]


def _folder(key: str) -> Path:
    return cache_dir() / "tokenised" / key


def write(
    key: str,
    load: Callable[[], Mapping[str, "Dataset"]],
    tokenizer: Any,
    tokenizer_files: dict[str, str],
    max_length: int,
) -> None:
    """Tokenise the splits that `load` returns into the cache, unless it has them under the key; shows progress."""
    with cached_dir(_folder(key)) as folder:
        if folder is None:
            return
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        splits = load()
        about = [splits["train"].features["label"].names, max_length, tokenizer.pad_token_id, tokenizer_files]
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


def read(key: str) -> TokenizedSplits:
    """Map the rows of a key from the cache."""
    from datasets import Dataset

    splits = {name: Dataset.from_file(str(_folder(key) / f"{name}.arrow")) for name in SPLITS}
    return TokenizedSplits(splits, *json.loads((_folder(key) / "about.json").read_text("utf-8")))


def sample(rows: "Dataset", count: int | None, seed: int, where: str) -> "Dataset":
    """Draw rows by `shuffle(seed).select(range(count))`; all, in their order, if the count is None.

    `where` begins a message: the option, "{}" for its value, and the split's name.
    """
    if count is None:
        return rows
    if count > len(rows):
        raise UserError(f"{where.format(count)} has {len(rows)} rows; ask for at most that many, or null for all")
    return rows.shuffle(seed=seed).select(range(count))


def texts(rows: "Dataset", index: Tensor) -> tuple[list[str], list[int]]:
    """Return the sentences and token counts of rows of a split whose `index` is this one, shape (N,)."""
    table = rows.data
    places = table.column("index").to_numpy()
    order = places.argsort()
    chosen = pa.array(order[np.searchsorted(places, index.numpy(), sorter=order)])
    lengths = pc.list_value_length(table.column("input_ids"))
    return table.column("text").take(chosen).to_pylist(), lengths.take(chosen).to_pylist()


def digest(rows: "Dataset") -> str:
    """Return a checksum of the token ids, labels and places of rows."""
    table, total = rows.data, hashlib.sha256()
    for column in (pc.list_value_length(table["input_ids"]), pc.list_flatten(table["input_ids"])):
        total.update(column.to_numpy().tobytes())
    for name in ("label", "index"):
        total.update(table[name].to_numpy().tobytes())
    return total.hexdigest()[:20]
