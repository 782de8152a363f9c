"""Splits as token ids, kept in the cache: held out, sampled, tokenised once, read by every process."""

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
from lit_bert.data.audit import audit, drop_leaked
from lit_bert.data.cache import cache_dir, cached_dir
from lit_bert.data.encoding import TextEncoder
from lit_bert.data.formats import TableFormat
from lit_bert.data.splits import hold_out, sample, take_fold
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

FORMAT = 6
"""Of the rows in the cache; a change of it leaves older ones behind."""

SPLITS = ("train", "val", "test")


class TokenizedSplits(NamedTuple):
    """Rows of "train", "val" and, if there are any, "test" and "unlabelled" (test rows without a label).

    They are memory-mapped, with `text`, `label`, `index`, `input_ids`, and in pairs `text_pair` and `token_type_ids`.
    `max_length` is the most tokens that a sequence has, `tokenizer_files` are the texts of the tokenizer's files by
    name, `audit` is what is to be said of the data, and `held_out` a digest of rows held out of the training rows.
    """

    splits: dict[str, "Dataset"]
    class_names: list[str]
    max_length: int
    pad_token_id: int
    tokenizer_files: dict[str, str]
    audit: dict[str, Any]
    held_out: str


def _folder(key: str) -> Path:
    return cache_dir() / "tokenised" / key


def check_options(given: Mapping[str, Any]) -> None:
    """Check the data module's arguments, as far as that can be done without the data."""
    least = {"train_rows": 1, "val_rows": 1, "test_rows": 1, "max_length": 3, "num_workers": 0, "sample_seed": 0}
    least |= {"batch_size": 1, "eval_batch_size": 1}
    for option, smallest in least.items():
        if given[option] is not None and given[option] < smallest:
            raise UserError(f"--data.{option} {given[option]}: it must be at least {smallest}")
    names, padding, delimiter = given["class_names"], given["padding"], given["delimiter"]
    if names is not None and len(set(names)) != max(2, len(names)):
        raise UserError(f"--data.class_names {names}: at least two different names are needed")
    if isinstance(padding, list) and (padding != sorted(set(padding)) or min(padding, default=0) < 1):
        raise UserError(f"--data.padding {padding}: give rising lengths of at least 1, such as [16, 32, 64]")
    folds, fold = given["folds"], given["fold"]
    if folds is not None and (folds < 2 or not 1 <= fold <= folds or given["val_split"] == "test"):
        problem = "--data.val_split test: folds are of the training and validation rows; leave one of the two out"
        if given["val_split"] != "test":
            problem = f"--data.folds {folds} --data.fold {fold}: give at least 2 folds, and one of 1 to {folds}"
        raise UserError(problem)
    if not 0 < given["holdout"] < 0.5:
        raise UserError(f"--data.holdout {given['holdout']}: it must be between 0 and 0.5")
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(f"--data.delimiter {delimiter!r}: give one character, such as ';'")
    if given["long_text"] != "head" and given["text_pair_column"]:
        raise UserError(f"--data.long_text {given['long_text']}: of pairs (--data.text_pair_column), heads are read")


def table_format(given: Mapping[str, Any]) -> TableFormat:
    """Return which columns the data module's arguments name."""
    names = ("text_column", "label_column", "text_pair_column", "delimiter")
    return TableFormat(**{name: given[name] for name in names})


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
    format, seed, val_split = table_format(given), given["sample_seed"], given["val_split"]
    names = ("class_names", "long_text", "holdout", "drop_unlabelled", "drop_leaked", "folds", "fold")
    counts = {split: given[f"{split}_rows"] for split in SPLITS}
    depends = [FORMAT, content, *format, *(given[option] for option in names), counts, val_split, seed, max_length]
    depends.append(tokenizer.backend_tokenizer.to_str())
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]
    with cached_dir(_folder(key)) as folder:
        if folder is None:
            return key
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        found = dataset.load(location, format, given["class_names"], given["drop_unlabelled"])
        complete = set(found)
        held_out = hold_out(found, val_split, given["holdout"], seed, f"--data.dataset {name}")
        if given["folds"]:
            from_train = "validation" not in complete
            take_fold(found, given["folds"], given["fold"], seed, f"--data.dataset {name}", from_train)
            complete |= {"validation"}
        counts_held_out = {split: len(rows) for split, rows in found.items() if split not in complete}
        if given["drop_leaked"]:
            drop_leaked(found)
        sources = {"train": "train", "val": val_split, "test": "test"}
        splits = {}
        for split, source in sources.items():
            if source in found:
                where = f"--data.{split}_rows {counts[split]}: the {source} split of {name}"
                splits[split] = sample(found[source], counts[split], seed, where)
        splits |= _divide_by_label(splits.get("test"))
        splits = {split: rows for split, rows in splits.items() if len(rows)}
        if not {"train", "val"} <= splits.keys():
            raise UserError(f"--data.dataset {name}: no {'training' if 'val' in splits else val_split} rows are left")
        encode = TextEncoder(tokenizer, max_length, given["long_text"])
        for split, rows in splits.items():
            rows.map(
                encode,
                batched=True,
                input_columns=[column for column in ("text", "text_pair") if column in rows.column_names],
                cache_file_name=str(folder / f"{split}.arrow"),
                writer_batch_size=10_000,
                desc=f"Tokenising {split} rows",
                new_fingerprint=f"{key}-{split}",
            )
        class_names = splits["train"].features["label"].names
        about = [list(splits), class_names, max_length, tokenizer.pad_token_id, files]
        about += [{**audit(splits), **encode.counts(), "held_out": counts_held_out}, held_out]
        (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return key


def _divide_by_label(test: "Dataset | None") -> dict[str, "Dataset"]:
    """Return the test rows with a label, and those without."""
    if test is None:
        return {}
    known = np.array(test["label"]) >= 0
    return {"test": test.select(np.flatnonzero(known)), "unlabelled": test.select(np.flatnonzero(~known))}


def read(key: str) -> TokenizedSplits:
    """Map the rows of a key from the cache."""
    from datasets import Dataset

    names, *about = json.loads((_folder(key) / "about.json").read_text("utf-8"))
    return TokenizedSplits({name: Dataset.from_file(str(_folder(key) / f"{name}.arrow")) for name in names}, *about)


def rows(splits: Mapping[str, "Dataset"], name: str, with_unlabelled: bool) -> "Dataset":
    """Return the rows of a split; those of "test" can come with those that have no label."""
    from datasets import concatenate_datasets

    names = [name, "unlabelled"] if name == "test" and with_unlabelled else [name]
    found = [splits[name] for name in names if name in splits]
    if not found:
        raise UserError(
            f"--data.dataset: there are no {name} rows{' with a label' if 'unlabelled' in splits else ''}; give them "
            f"with --data.dataset.{name} FILE, or predict a file with --input"
        )
    return concatenate_datasets(found) if len(found) > 1 else found[0]


def lengths(rows: "Dataset") -> Any:
    """Return the token count of each row as an array, shape (rows,)."""
    return pc.list_value_length(rows.data["input_ids"]).to_numpy()


def texts(rows: "Dataset", index: Tensor) -> tuple[list[str], list[int]]:
    """Return the texts and token counts of rows of a split whose `index` is this one, shape (N,).

    The two texts of a pair are one, with " / " between them.
    """
    table = rows.data
    places = table.column("index").to_numpy()
    order = places.argsort()
    chosen = pa.array(order[np.searchsorted(places, index.numpy(), sorter=order)])
    columns = [table.column(name).take(chosen) for name in ("text", "text_pair") if name in rows.column_names]
    return pc.binary_join_element_wise(*columns, " / ").to_pylist(), lengths(rows)[chosen].tolist()


def digest(rows: "Dataset") -> str:
    """Return a checksum of the token ids, labels and places of rows."""
    table, total = rows.data, hashlib.sha256()
    for column in (pc.list_value_length(table["input_ids"]), pc.list_flatten(table["input_ids"])):
        total.update(column.to_numpy().tobytes())
    for name in ("label", "index"):
        total.update(table[name].to_numpy().tobytes())
    return total.hexdigest()[:20]
