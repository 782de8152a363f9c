"""Texts without a label that are trained on beside the labelled rows, by a callback that gives them a loss."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lit_bert.data.audit import drop_leaked
from lit_bert.data.cache import sha256_of
from lit_bert.data.collate import IGNORED
from lit_bert.data.formats import suffix_of
from lit_bert.data.options import DataOptions
from lit_bert.data.readers import read_texts
from lit_bert.data.splits import take
from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

OPTION, REST = "--distillation.unlabelled", "rest"


def digest(source: str | None) -> str | None:
    """Return what the texts are known by, wherever they are: a file's checksum and format."""
    if source in (None, REST):
        return source
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{OPTION} {source}: there is no such file; give one, or {REST} (see --data.train_rows)")
    return f"{sha256_of(path)}{suffix_of(path)}"


def load_unlabelled(options: DataOptions, found: dict[str, "Dataset"], drawn: "Dataset") -> tuple["Dataset", int]:
    """Return the texts as training rows with label -100, and how many were left out for evaluation's sake.

    `found` are all rows of the data set by split, and `drawn` are the training rows that are trained on with their
    labels. The `index` of a file's texts begins after that of the training rows.
    """
    from datasets import Dataset

    train, source = found["train"], str(options.unlabelled)
    if source == REST:
        columns = take(train, ~np.isin(train["index"][:], drawn["index"][:]))[:]
    else:
        rows = [row for row in read_texts(source, options.format, option=OPTION) if row.is_filled]
        first = max(train["index"][:]) + 1
        columns = {"index": list(range(first, first + len(rows))), "text": [row.text for row in rows]}
        columns |= {"text_pair": [row.text_pair for row in rows]} if options.text_pair_column else {}
    total = len(columns["text"])
    columns["label"] = [IGNORED] * total
    texts = Dataset(pa.table(columns, schema=train.features.arrow_schema), fingerprint=secrets.token_hex(8))
    kept = {**found, "train": texts}
    if total:
        drop_leaked(kept)
    if not len(kept["train"]):
        empty = "--data.train_rows leaves no row out" if source == REST else "no row has a text"
        why = f"all of its {total:,} texts are validation or test rows" if total else empty
        raise UserError(f"{OPTION} {source}: {why}; name a file of other texts")
    return kept["train"], total - len(kept["train"])
