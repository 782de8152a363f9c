"""Splits as token ids, kept in the cache: held out, sampled, tokenised once, read by every process."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text
from torch import Tensor

from lit_bert.data import dataset
from lit_bert.data.audit import audit, drop_leaked
from lit_bert.data.cache import cache_dir, cached_dir
from lit_bert.data.encoding import TextEncoder, tokenizer_files
from lit_bert.data.options import DataOptions
from lit_bert.data.splits import hold_out, sample, take, take_fold
from lit_bert.data.unlabelled import digest as digest_of_texts
from lit_bert.data.unlabelled import load_unlabelled
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

FORMAT = 9
"""Version of the rows in the cache. It is part of their key, so that older ones are left alone."""

_FOLDER, _MANIFEST = "tokenised", "manifest.json"

_UNLABELLED = {"train": "train_unlabelled", "test": "unlabelled"}
"""The rows without a label that belong to a split."""


class TokenizedSplits(NamedTuple):
    """Rows of "train", "val" and, if there are any, "test"; and those without a label.

    These are "unlabelled", for test rows, and "train_unlabelled" with label -100 (`--distillation.unlabelled`). All
    are memory-mapped, with `text`, `label`, `index`, `input_ids`, and in pairs `text_pair` and `token_type_ids`.
    `tokenizer_files` are texts by name, and `held_out` is a digest of the rows held out of the training rows.
    """

    splits: dict[str, "Dataset"]
    class_names: list[str]
    max_length: int
    pad_token_id: int
    tokenizer_files: dict[str, str]
    audit: dict[str, Any]
    held_out: str


def prepare(options: DataOptions, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Fetch, check, sample and tokenise a data set into the cache, unless it has it; shows progress; returns its key.

    `tokenizer` is one of `modeling.tokenizer.find_tokenizer`.

    Raises:
        UserError: The data set has a fault, or not what the options ask for; or the cache cannot be written.
    """
    limit = tokenizer.model_max_length
    max_length = options.max_length or limit
    if max_length > limit:
        raise UserError(f"--data.max_length {max_length}: the encoder has positions for {limit} tokens at most")
    location, digest = dataset.fetch(options.dataset)
    # Files count by their content, wherever they are.
    texts = digest_of_texts(options.unlabelled)
    rows = asdict(replace(options, dataset=digest, max_length=max_length, unlabelled=texts))
    content = [FORMAT, rows, tokenizer.backend_tokenizer.to_str(), tokenizer.model_input_names, tokenizer.pad_token_id]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
    with cached_dir(cache_dir() / _FOLDER / key) as folder:
        if folder is None:
            return key
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        files = tokenizer_files(tokenizer)  # which fails at once, if at all
        with Console(stderr=True).status(Text(f"Reading {options.dataset}")):  # on a terminal
            splits, held_out, counts = _choose(options, location)
            found = audit({split: chosen for split, chosen in splits.items() if split != _UNLABELLED["train"]})
        encode = TextEncoder(tokenizer, max_length, options.long_text)
        for split, chosen in splits.items():
            chosen.map(
                encode,
                batched=True,
                input_columns=[column for column in ("text", "text_pair") if column in chosen.column_names],
                cache_file_name=str(folder / f"{split}.arrow"),  # or they would stand in memory first
                writer_batch_size=10_000,
                desc=f"Tokenising {split} rows",
                new_fingerprint=f"{key}-{split}",  # without it, `datasets` pickles the tokenizer to make one
            )
        manifest = {
            "splits": list(splits),
            "class_names": splits["train"].features["label"].names,
            "max_length": max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "tokenizer_files": files,
            "audit": found | counts | encode.counts(),
            "held_out": held_out,
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return key


def _choose(options: DataOptions, location: str | dict[str, str]) -> tuple[dict[str, "Dataset"], str, dict[str, Any]]:
    """Return the rows of each split that options ask for, and a digest of those that were held out.

    Last come the counts of these, `held_out`, and of the unlabelled texts that are `left_out`.
    """
    name, seed, val_split = f"--data.dataset {options.dataset}", options.sample_seed, options.val_split
    found = dataset.load(location, options.format, options.class_names, options.drop_unlabelled)
    given = set(found)
    held_out = hold_out(found, val_split, options.holdout, seed, name)
    counts = {split: len(rows) for split, rows in found.items() if split not in given}
    if options.folds:
        take_fold(found, options.folds, options.fold, seed, name, from_train="validation" not in given)
        counts.pop("validation", None)
    if options.drop_leaked:
        drop_leaked(found)
    sources = {"train": "train", "val": val_split, "test": "test"}
    wanted = {"train": options.train_rows, "val": options.val_rows, "test": options.test_rows}
    splits = {}
    for split, source in sources.items():
        if source in found:
            where = f"--data.{split}_rows {wanted[split]}: the {source} split of {options.dataset}"
            splits[split] = sample(found[source], wanted[split], seed, where)
    if "test" in splits:
        known = np.array(splits["test"]["label"][:]) >= 0
        splits["unlabelled"] = take(splits["test"], ~known)
        splits["test"] = take(splits["test"], known)
    left_out = 0
    if options.unlabelled:
        splits[_UNLABELLED["train"]], left_out = load_unlabelled(options, found, splits["train"])
    splits = {split: rows for split, rows in splits.items() if len(rows)}
    for split in ("train", "val"):
        if split not in splits:
            raise UserError(f"{name}: no {sources[split]} rows are left")
    return splits, held_out, {"held_out": counts, "left_out": left_out}


def read(key: str) -> TokenizedSplits:
    """Map the rows of a key from the cache."""
    from datasets import Dataset

    folder = cache_dir() / _FOLDER / key
    manifest = json.loads((folder / _MANIFEST).read_text("utf-8"))
    splits = {split: Dataset.from_file(str(folder / f"{split}.arrow")) for split in manifest.pop("splits")}
    return TokenizedSplits(splits, **manifest)


def rows(splits: Mapping[str, "Dataset"], name: str, with_unlabelled: bool) -> "Dataset":
    """Return the rows of a split; those of "train" and "test" can come with those that have no label."""
    from datasets import concatenate_datasets

    names = [name, _UNLABELLED.get(name, "")] if with_unlabelled else [name]
    found = [splits[name] for name in names if name in splits]
    if not found:
        raise UserError(
            f"--data.dataset: there are no {name} rows{' with a label' if 'unlabelled' in splits else ''}; give them "
            f"with --data.dataset.{name} FILE, or predict a file with --input"
        )
    return concatenate_datasets(found) if len(found) > 1 else found[0]


def lengths(rows: "Dataset") -> NDArray[np.int32]:
    """Return the token count of each row."""
    counts: NDArray[np.int32] = pc.list_value_length(rows.data["input_ids"]).to_numpy()
    return counts


def texts(rows: "Dataset", index: Tensor) -> tuple[list[str], list[int]]:
    """Return the texts, pairs with " / " between them, and token counts of the rows of these `index`, shape (N,)."""
    table = rows.data
    places = table.column("index").to_numpy()
    order = places.argsort()
    chosen = pa.array(order[np.searchsorted(places, index.numpy(), sorter=order)])
    columns = [table.column(name).take(chosen) for name in ("text", "text_pair") if name in rows.column_names]
    return pc.binary_join_element_wise(*columns, " / ").to_pylist(), lengths(rows)[chosen].tolist()


def digest(rows: "Dataset") -> str:
    """Return a checksum of the token ids, labels and places of rows."""
    table, total = rows.data, hashlib.sha256()
    ids = table["input_ids"]
    for column in (pc.list_value_length(ids), pc.list_flatten(ids), table["label"], table["index"]):
        total.update(column.to_numpy().tobytes())
    return total.hexdigest()[:20]
