"""What is wrong with a data set that can still be trained on: texts that occur twice, labels that contradict, and more.

Texts are alike if they differ in upper and lower case, spaces and punctuation alone.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lit_bert.data.splits import take

if TYPE_CHECKING:
    from datasets import Dataset

Codes = NDArray[np.int64]


def _codes(splits: Mapping[str, "Dataset"], fold: bool) -> dict[str, Codes]:
    """Return a number for each row, the same for rows of the same text (or of texts that are alike)."""
    columns = []
    for column in ("text", "text_pair"):
        chunks = [rows.with_format("arrow")[:][column] for rows in splits.values() if column in rows.column_names]
        if chunks:
            text = pa.chunked_array([chunk for column in chunks for chunk in column.chunks]).cast(pa.large_string())
            folded = pc.replace_substring_regex(pc.utf8_lower(text), r"[^\pL\pN]+", "")
            columns.append(pc.if_else(pc.equal(folded, ""), text, folded) if fold else text)
    joined = pc.binary_join_element_wise(*columns, pa.scalar("\n", pa.large_string()))
    codes = joined.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    ends = np.cumsum([len(rows) for rows in splits.values()])
    return dict(zip(splits, np.split(codes, ends[:-1]), strict=True))


def _leaked(codes: Mapping[str, Codes]) -> NDArray[np.bool_]:
    evaluated = [values for split, values in codes.items() if split != "train"]
    return np.isin(codes["train"], np.concatenate([codes["train"][:0], *evaluated]))


def drop_leaked(splits: dict[str, "Dataset"]) -> None:
    """Leave out training rows that are alike to a row of another split."""
    splits["train"] = take(splits["train"], ~_leaked(_codes(splits, fold=True)))


def audit(splits: Mapping[str, "Dataset"]) -> dict[str, Any]:
    """Return what a look at the rows shows.

    It has, by split, `duplicates` and `near_duplicates` (rows whose text, or one alike, came before in the split) and
    `classes` (rows of each); and `leaked` (training rows that are alike to a row of another split), `contradicting`
    (rows that are alike to one with another label) and `tiny` (texts of fewer than two letters or digits).
    """
    exact, near = _codes(splits, fold=False), _codes(splits, fold=True)
    labels = {split: np.array(rows["label"][:]) for split, rows in splits.items()}
    names = splits["train"].features["label"].names
    known = np.concatenate(list(labels.values())) >= 0
    alike, label = (np.concatenate(list(values.values()))[known] for values in (near, labels))
    pairs = np.unique(np.stack([alike, label]), axis=1)
    contradicting = np.flatnonzero(np.bincount(pairs[0]) > 1)
    texts = [chunk for rows in splits.values() for chunk in rows.with_format("arrow")[:]["text"].chunks]
    letters = pc.count_substring_regex(pa.chunked_array(texts), r"[\pL\pN]")
    return {
        "duplicates": {split: len(codes) - len(np.unique(codes)) for split, codes in exact.items()},
        "near_duplicates": {split: len(codes) - len(np.unique(codes)) for split, codes in near.items()},
        "leaked": int(_leaked(near).sum()),
        "contradicting": int(np.isin(alike, contradicting).sum()),
        "tiny": int(pc.sum(pc.less(letters, 2)).as_py() or 0),
        "classes": {
            split: dict(zip(names, np.bincount(numbers[numbers >= 0], minlength=len(names)).tolist(), strict=True))
            for split, numbers in labels.items()
        },
    }


def describe(audit: Mapping[str, Any]) -> list[str]:
    """Return what is wrong by an audit, as lines for people.

    It has the `counts` of a `TextEncoder`, too, and how many unlabelled texts are `left_out`.
    """
    near = sum(audit["near_duplicates"].values())
    spellings: dict[str, list[str]] = {}
    counts = audit["classes"]["train"]
    for name in counts:
        spellings.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = ", ".join(repr(name) for names in spellings.values() if len(names) > 1 for name in names)
    few = min(10, sum(counts.values()) / len(counts) / 2)
    rare = [f"{name!r} ({rows})" for name, rows in counts.items() if rows < few]
    unknown = audit["unknown_tokens"] if audit["unknown_tokens"] >= 0.01 else 0
    found = {
        f"labels that differ in upper and lower case or blanks alone are classes of their own: {alike}": alike,
        f"classes of so few training rows are rarely learned (see --model.class_weights): {', '.join(rare[:9])}": rare,
        f"{near:,} rows repeat the text of another row of their split": near,
        f"{audit['contradicting']:,} rows share their text with a row of another label": audit["contradicting"],
        f"{audit['tiny']:,} texts have fewer than two letters": audit["tiny"],
        f"{audit['cut_rows']:.1%} of the rows are cut to --data.max_length, which leaves out "
        f"{audit['cut_tokens']:.1%} of the tokens (see --data.long_text)": audit["cut_rows"],
        f"{unknown:.1%} of the tokens are unknown to the tokenizer": unknown,
        f"{audit['leaked']:,} training rows are validation or test rows, too, which flatters the scores: "
        "--data.drop_leaked true leaves them out": audit["leaked"],
        f"{audit.get('left_out', 0):,} texts of --distillation.unlabelled are validation or test rows, and are left "
        "out": audit.get("left_out"),
    }
    return [line for line, is_found in found.items() if is_found]
