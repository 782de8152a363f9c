from collections import Counter

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from lit_bert.data.splits import hold_out, take_fold
from lit_bert.errors import UserError


def rows(counts: dict[str, int]) -> Dataset:
    names = list(counts)
    labels = [names.index(name) for name, count in counts.items() for _ in range(count)]
    features = Features({"text": Value("string"), "label": ClassLabel(names=names), "index": Value("int64")})
    texts = [f"text {number}" for number in range(len(labels))]
    return Dataset.from_dict({"text": texts, "label": labels, "index": list(range(len(labels)))}, features=features)


def held(given: list[str], counts: dict[str, int], needed: str = "validation", seed: int = 1) -> dict[str, Dataset]:
    splits = dict.fromkeys(given, rows(counts))
    hold_out(splits, needed, 0.1, seed, "--data.dataset a.csv")
    return splits


def test_both_are_held_out_class_by_class_and_no_row_is_in_two() -> None:
    splits = held(["train"], {"many": 150, "some": 20, "few": 3})
    counts = {split: Counter(part["label"]) for split, part in splits.items()}
    held_out = {0: 15, 1: 2, 2: 1}
    assert counts == {"train": {0: 120, 1: 16, 2: 1}, "validation": held_out, "test": held_out}
    taken = [index for part in splits.values() for index in part["index"]]
    assert sorted(taken) == list(range(173))
    assert all(part["index"] == sorted(part["index"]) for part in splits.values())


def test_the_draw_is_that_of_the_seed() -> None:
    first, again, other = (held(["train"], {"a": 50, "b": 50}, seed=seed)["test"]["index"] for seed in (1, 1, 2))
    assert first == again != other
    digests = [hold_out({"train": rows({"a": 50, "b": 50})}, "validation", 0.1, seed, "") for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("given", "needed", "expected"),
    [
        (["train", "test"], "validation", ["train", "test", "validation"]),
        (["train", "validation"], "validation", ["train", "validation"]),
        (["train", "validation", "test"], "validation", ["train", "validation", "test"]),
        (["train", "test"], "test", ["train", "test"]),
        (["train"], "test", ["train", "test"]),
    ],
)
def test_what_is_given_is_used_as_it_is(given: list[str], needed: str, expected: list[str]) -> None:
    splits = held(given, {"a": 20, "b": 20}, needed)
    assert list(splits) == expected
    assert all(len(splits[split]) == 40 for split in given[1:])
    assert len(splits["train"]) == 40 - 4 * (len(expected) - len(given))


def test_a_class_with_too_few_rows_and_a_split_that_is_missing() -> None:
    with pytest.raises(UserError, match=r"a.csv: class 'b' has 2 row\(s\), too few to be among the training rows and"):
        held(["train"], {"a": 20, "b": 2})
    with pytest.raises(UserError, match=r"--data.val_split test: --data.dataset a.csv has no such split"):
        held(["train", "validation"], {"a": 20, "b": 20}, "test")


@pytest.mark.parametrize("given", [["train"], ["train", "test"], ["train", "validation", "test"]])
def test_every_row_that_is_not_for_testing_is_validated_in_one_fold(given: list[str]) -> None:
    validated = []
    for fold in (1, 2, 3):
        splits = held(given, {"many": 60, "few": 9})
        take_fold(splits, 3, fold, 1, "--data.dataset a.csv", from_train="validation" not in given)
        train, val = splits["train"], splits["validation"]
        assert not set(train["index"]) & set(val["index"])
        assert abs(Counter(val["label"])[0] / len(val) - Counter(train["label"])[0] / len(train)) < 0.06
        validated += val["index"]
    pool = {"train": 69, "validation": 138}["validation" if "validation" in given else "train"]
    assert len(validated) == len(set(validated)) == pool - (len(splits["test"]) if "test" not in given else 0)


def test_more_folds_than_rows_of_a_class_are_refused() -> None:
    with pytest.raises(UserError, match=r"--data.folds 4: class 'few' of a.csv has 3 row\(s\)"):
        take_fold({"train": rows({"many": 60, "few": 3})}, 4, 1, 1, "a.csv")
