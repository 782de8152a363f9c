"""Which rows of a data set are for training, validation and test: as given, held out of the training rows, sampled."""

import hashlib
import secrets
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lit_bert.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


def hold_out(splits: dict[str, "Dataset"], needed: str, share: float, seed: int, name: str) -> str:
    """Take the splits that are missing out of the training rows; returns a digest of these rows, "" if there are none.

    Validation and test rows are held out if neither is given, validation rows alone if there are test rows: of each
    class about this share, and at least one row (which scikit-learn's `train_test_split` does not promise).

    `needed` is the split that training is evaluated on, and `name` is what messages call the data set.
    """
    missing = list(dict.fromkeys(split for split in (needed, "test") if split not in splits))
    if "validation" in splits and needed in missing:
        raise UserError(f"--data.val_split {needed}: {name} has no such split")
    if "validation" in splits or not missing:
        return ""
    train = splits["train"]
    names, labels = train.features["label"].names, np.array(train["label"][:])
    counts = np.bincount(labels, minlength=len(names))
    for label in np.flatnonzero((counts > 0) & (counts <= len(missing))):
        raise UserError(
            f"{name}: class {names[label]!r} has {counts[label]} row(s), too few to be among the training rows and the "
            f"{' and '.join(missing)} rows that are held out of them; add rows of this class, leave it out, or give "
            "a file for each split (--data.dataset.train FILE and so on)"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    place = np.empty_like(order)  # of each row among those of its class
    place[order] = np.arange(len(order)) - (counts.cumsum() - counts)[labels[order]]
    taken = np.maximum(1, np.rint(share * counts)).astype(int)[labels]
    digest = hashlib.sha256()
    for number, split in enumerate(missing):
        splits[split] = take(train, (number * taken <= place) & (place < (number + 1) * taken))
        digest.update("\n".join([split, *splits[split]["text"][:]]).encode())
    splits["train"] = take(train, place >= len(missing) * taken)
    return digest.hexdigest()[:20]


def take_fold(
    splits: dict[str, "Dataset"], folds: int, fold: int, seed: int, name: str, from_train: bool = False
) -> None:
    """Validate on one of some folds of the training and validation rows, from 1, and train on the others.

    Folds have about equally many rows of each class (scikit-learn's `StratifiedKFold`). The `index` of a row is its
    place among the rows of all folds, training rows first; it is already if validation rows come `from_train`.
    """
    from datasets import concatenate_datasets
    from sklearn.model_selection import StratifiedKFold

    train, val = splits["train"], splits.get("validation")
    if val is not None:
        place = 0 if from_train else max(train["index"][:]) + 1
        places = np.array(val["index"][:]) + place
        val = val.remove_columns("index").add_column("index", places)
        train = concatenate_datasets([train, val.select_columns(train.column_names)])
    names, labels = train.features["label"].names, np.array(train["label"][:])
    train = take(train, labels >= 0)
    labels = labels[labels >= 0]
    counts = np.bincount(labels, minlength=len(names))
    for label in np.flatnonzero((counts > 0) & (counts < folds)):
        raise UserError(
            f"--data.folds {folds}: class {names[label]!r} of {name} has {counts[label]} row(s), and each fold needs "
            "one; lower it, or leave this class out"
        )
    drawn = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    own = np.isin(np.arange(len(labels)), list(drawn)[fold - 1][1])
    splits["train"], splits["validation"] = take(train, ~own), take(train, own)


def sample(rows: "Dataset", count: int | None, seed: int, where: str) -> "Dataset":
    """Draw rows by `shuffle(seed).select(range(count))`; all, in their order, if the count is None."""
    if count is None:
        return rows
    if count > len(rows):
        raise UserError(f"{where} has {len(rows)} rows; ask for at most that many, or null for all")
    from datasets import Dataset

    drawn = rows.shuffle(seed=seed).select(range(count)).with_format("arrow")[:]
    return Dataset(drawn.combine_chunks(), fingerprint=secrets.token_hex(8))


def take(rows: "Dataset", mask: NDArray[np.bool_]) -> "Dataset":
    """Return the rows where a mask is true, in one piece; `select` would leave a piece for each, which is slow."""
    from datasets import Dataset

    return Dataset(rows.data.table.filter(pa.array(mask)), fingerprint=secrets.token_hex(8))  # it would hash all rows
