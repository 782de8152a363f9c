"""Labels as class numbers, the names of the classes, and what may be wrong with either: each fault is a UserError."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from lit_bert.errors import UserError

Label = str | int | None

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0*)?")
"""A whole number as programs write it, also as a float; 007 and +1 are text."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:[.,][05]?0*)?[+-]?")
"""What may stand among whole numbers: half stars, 3+, 007."""

_TRUTH = ("true", "false")


def plain_labels(labels: Sequence[Any], names: list[str] | None, where: str, column: str) -> list[Label]:
    """Return labels as text or whole numbers, one kind for the whole column, None where there is none.

    `names` of the data replace numbers; beside them -1 stands for no label, as in data sets of the Hugging Face Hub.
    """
    values = [_filled(label) for label in labels]
    if len({value for value in values if str(value).lower() in _TRUTH}) > 2:  # JSON's spelling beside another
        values = [str(value).lower() if str(value).lower() in _TRUTH else value for value in values]
    whole = [_digits(value) for value in values]
    if names is not None:
        text = [
            isinstance(value, str) and (value in names or not digits)
            for value, digits in zip(values, whole, strict=True)
        ]
        numbers = [int(digits) if digits else None for digits in whole]
        outside = (
            not is_text and number not in range(-1, len(names)) for is_text, number in zip(text, numbers, strict=True)
        )
        problem = f"not one of 0 to {len(names) - 1} ({', '.join(names)}), nor -1 for none"
        _refuse(outside, values, where, column, problem)
        by_number: dict[int | None, str | None] = {None: None, -1: None, **dict(enumerate(names))}
        return [
            value if is_text else by_number[number]
            for value, is_text, number in zip(values, text, numbers, strict=True)
        ]
    if any(isinstance(value, str) for value in values) and not any(whole):
        return values
    others = [value for value, digits in zip(values, whole, strict=True) if value is not None and digits is None]
    if others and all(_is_number(str(value)) for value in others):
        return [None if value is None else digits or str(value) for value, digits in zip(values, whole, strict=True)]
    problem = "of another type than it should be; labels are all whole numbers or all text"
    _refuse((digits is None for digits in whole), values, where, column, problem)
    return [int(digits) if digits else None for digits in whole]


def plain_label(label: Any) -> str | None:
    """Return one label as `plain_labels` reads it, as text."""
    value = _filled(label)
    return None if value is None else _digits(value) or str(value)


def _is_number(label: str) -> bool:
    """Tell whether a label or the name of a class is a number, if only somewhat: half stars, 3+, 007."""
    return _NUMBER.fullmatch(label) is not None


def classes_by_label(class_names: Sequence[str]) -> dict[str, str]:
    """Return the classes by what may stand for them: their names, or their numbers from 0 if no name is a number."""
    counted = not any(map(_is_number, class_names))
    classes = {str(number): name for number, name in enumerate(class_names)} if counted else {}
    for name in class_names:
        if name.lower() in _TRUTH:  # spelt otherwise in JSON than by Python
            classes |= dict.fromkeys((name.lower(), name.title(), name.upper()), name)
    return classes | {name.strip(): name for name in class_names} | {name: name for name in class_names}


def _filled(label: Any) -> Any:
    """Return a label without blanks around it, None for one that is blank or not a number; truth values are alike."""
    if isinstance(label, bool):
        return str(label).lower()
    text = label.strip() if isinstance(label, str) else label
    return None if text != text or text == "" else text


def _digits(value: Any) -> str | None:
    match = _WHOLE.fullmatch(str(value))
    return match and str(int(match[1]))


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

    Text is matched with the names of the classes. So are whole numbers, if a name is a number; else they count the
    classes from 0.
    """
    classes, number_of = classes_by_label(class_names), {name: number for number, name in enumerate(class_names)}
    known = ", ".join(class_names)
    if any(isinstance(label, int) for label in labels) and len(classes) > len(class_names):
        known = f"0 to {len(class_names) - 1} ({known})"
    problem = f"not one of {known}; correct it, or give the classes with --data.class_names"
    _refuse((str(label) not in classes for label in labels), labels, where, column, problem)
    return [-1 if label is None else number_of[classes[str(label)]] for label in labels]


def _refuse(bad: Iterable[bool], labels: Sequence[Any], where: str, column: str, problem: str) -> None:
    """Name the first row whose label is there and bad."""
    for row, (is_bad, label) in enumerate(zip(bad, labels, strict=True), 1):
        if is_bad and label is not None:
            raise UserError(f"{where}, row {row}: label {label!r} in column {column!r} is {problem}")
