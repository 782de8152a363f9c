"""Splits as token ids, kept in the cache: sampled, tokenised once, read by every process."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from lit_bert.data import dataset
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


def _folder(key: str) -> Path:
    return cache_dir() / "tokenised" / key


def prepare(
    name: str | dict[str, str], given: Mapping[str, Any], tokenizer: Any, files: dict[str, str], limit: int
) -> str:
    """Fetch, check, sample and tokenise a data set into the cache, unless it has it; shows progress; returns its key.

    `given` are the data module's arguments, `files` the tokenizer's, and `limit` is how many tokens the encoder takes.
    """
    max_length = given["max_length"] or limit
    if max_length > limit:
        raise UserError(
            f"--data.max_length {max_length}: {given['tokenizer']} has positions for {limit} tokens at most"
        )
    location, content = dataset.fetch(name)
    columns = [given["text_column"], given["label_column"], given["class_names"]]
    sources = ["train", given["val_split"], "test"]
    counts, seed = [given[f"{split}_rows"] for split in SPLITS], given["sample_seed"]
    depends = [FORMAT, content, *columns, counts, sources, seed, max_length, tokenizer.backend_tokenizer.to_str()]
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]
    with cached_dir(_folder(key)) as folder:
        if folder is None:
            return key
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        splits = dataset.load(location, *columns)
        about = [splits["train"].features["label"].names, max_length, tokenizer.pad_token_id, files]
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        for split, source, count in zip(SPLITS, sources, counts, strict=True):
            where = f"--data.{split}_rows {count}: the {source} split of {name}"
            _sample(splits[source], count, seed, where).map(
                lambda rows: {"input_ids": tokenizer(rows["text"], truncation=True, max_length=max_length).input_ids},
                batched=True,
                cache_file_name=str(folder / f"{split}.arrow"),
                writer_batch_size=10_000,
                desc=f"Tokenising {split} rows",
                new_fingerprint=f"{key}-{split}",
            )
    return key


def read(key: str) -> TokenizedSplits:
    """Map the rows of a key from the cache."""
    from datasets import Dataset

    splits = {name: Dataset.from_file(str(_folder(key) / f"{name}.arrow")) for name in SPLITS}
    return TokenizedSplits(splits, *json.loads((_folder(key) / "about.json").read_text("utf-8")))


def _sample(rows: "Dataset", count: int | None, seed: int, where: str) -> "Dataset":
    """Draw rows by `shuffle(seed).select(range(count))`; all, in their order, if the count is None."""
    if count is None:
        return rows
    if count > len(rows):
        raise UserError(f"{where} has {len(rows)} rows; ask for at most that many, or null for all")
    return rows.shuffle(seed=seed).select(range(count))


def lengths(rows: "Dataset") -> Any:
    """Return the token count of each row as an array, shape (rows,)."""
    return pc.list_value_length(rows.data["input_ids"]).to_numpy()


def texts(rows: "Dataset", index: Tensor) -> tuple[list[str], list[int]]:
    """Return the sentences and token counts of rows of a split whose `index` is this one, shape (N,)."""
    table = rows.data
    places = table.column("index").to_numpy()
    order = places.argsort()
    chosen = order[np.searchsorted(places, index.numpy(), sorter=order)]
    return table.column("text").take(pa.array(chosen)).to_pylist(), lengths(rows)[chosen].tolist()


def digest(rows: "Dataset") -> str:
    """Return a checksum of the token ids, labels and places of rows."""
    table, total = rows.data, hashlib.sha256()
    for column in (pc.list_value_length(table["input_ids"]), pc.list_flatten(table["input_ids"])):
        total.update(column.to_numpy().tobytes())
    for name in ("label", "index"):
        total.update(table[name].to_numpy().tobytes())
    return total.hexdigest()[:20]
