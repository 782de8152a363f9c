"""Labels as class numbers, the names of the classes, and what may be wrong with either: each fault is a UserError."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from lit_bert.errors import UserError

Label = str | int | None


def plain_labels(labels: Sequence[Any], names: list[str] | None, where: str, column: str) -> list[Label]:
    """Return labels as text or whole numbers, one kind for the whole column, None where there is none.

    `names` of the data replace numbers; beside them -1 stands for no label, as in data sets of the Hugging Face Hub.
    """
    values = [_filled(label) for label in labels]
    matches = (re.fullmatch(r"(-?[0-9]{1,18})(\.0*)?", str(value)) for value in values)
    whole = [match and match[1] for match in matches]
    texts = {value for value in values if isinstance(value, str)}
    if texts and (not any(whole) or texts <= set(names or ())):
        return values
    problem = "of another type than it should be; labels are all whole numbers or all text"
    _refuse((digits is None for digits in whole), values, where, column, problem)
    numbers = [int(digits) if digits else None for digits in whole]
    if names is None:
        return list(numbers)
    numbers = [None if number == -1 else number for number in numbers]
    outside = (number not in range(len(names)) for number in numbers)
    _refuse(outside, numbers, where, column, f"not one of 0 to {len(names) - 1} ({', '.join(names)}), nor -1 for none")
    return [None if number is None else names[number] for number in numbers]


def _filled(label: Any) -> Any:
    """Return a label, or None for one that is blank or not a number; a truth value becomes its name."""
    if isinstance(label, bool):
        return str(label).lower()
    return None if label != label or (isinstance(label, str) and not label.strip()) else label


def class_names_of(feature: object) -> list[str] | None:
    """Return the names of the classes that a column has by its feature in `datasets`, if it is a `ClassLabel`."""
    from datasets import ClassLabel

    return list(feature.names) if isinstance(feature, ClassLabel) else None


def infer_class_names(labels: Sequence[Label], where: str, column: str) -> list[str]:
    """Return the names of the classes, as the plain labels of the training split have them, in a person's order."""
    numbers = sorted({label for label in labels if isinstance(label, int)})
    names = [*map(str, numbers), *sorted({label for label in labels if isinstance(label, str)}, key=_natural_order)]
    if len(names) < 2:
        raise UserError(f"{where}: column {column!r} has the one class {names[0]!r}; a classifier needs two or more")
    return names


def _natural_order(name: str) -> tuple[Any, str]:
    """Return a key by which "class 2" comes before "class 10", and capitals make no difference."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)], name


def encode_labels(labels: Sequence[Label], class_names: list[str], where: str, column: str) -> list[int]:
    """Return plain labels as class numbers, -1 where there is none.

    Text is matched with the names of the classes. So are whole numbers, if all names are such; else they count the
    classes from 0.
    """
    keys, known = class_names, ", ".join(class_names)
    if any(isinstance(label, int) for label in labels) and not all(re.fullmatch(r"-?[0-9]+", key) for key in keys):
        keys, known = [str(number) for number in range(len(keys))], f"0 to {len(keys) - 1} ({known})"
    numbers = {key: number for number, key in enumerate(keys)}
    problem = f"not one of {known}; correct it, or give the classes with --data.class_names"
    _refuse((str(label) not in numbers for label in labels), labels, where, column, problem)
    return [-1 if label is None else numbers[str(label)] for label in labels]


def _refuse(bad: Iterable[bool], labels: Sequence[Any], where: str, column: str, problem: str) -> None:
    """Name the first row whose label is there and bad."""
    for row, (is_bad, label) in enumerate(zip(bad, labels, strict=True), 1):
        if is_bad and label is not None:
            raise UserError(f"{where}, row {row}: label {label!r} in column {column!r} is {problem}")
