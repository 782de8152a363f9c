from datasets import ClassLabel, Dataset, Features, Value

from lit_bert.data.audit import audit, describe, drop_leaked

TRAIN = [("Good fun!", 1), ("good  fun", 1), ("Good fun!", 0), ("dull", 0), ("!", 0), ("?", 1)]


def rows(*values: tuple[str, int]) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    return Dataset.from_dict(
        {"text": [text for text, _ in values], "label": [label for _, label in values]}, features=features
    )


def test_what_is_found() -> None:
    found = audit({"train": rows(*TRAIN), "val": rows(("DULL.", 0), ("new", 1)), "unlabelled": rows(("new", -1))})
    assert found == {
        "duplicates": {"train": 1, "val": 0, "unlabelled": 0},
        "near_duplicates": {"train": 2, "val": 0, "unlabelled": 0},
        "leaked": 1,
        "contradicting": 3,
        "tiny": 2,
        "classes": {split: {"neg": n, "pos": n} for split, n in (("train", 3), ("val", 1), ("unlabelled", 0))},
    }
    lines = describe({**found, "cut_rows": 0.25, "cut_tokens": 0.5, "unknown_tokens": 0.02})
    assert lines[0] == "2 rows repeat the text of another row of their split"
    assert lines[3].startswith("25.0% of the rows are cut to --data.max_length, which leaves out 50.0% of the tokens")
    assert lines[-1].endswith("--data.drop_leaked true leaves them out")
    assert len(lines) == 6
    clean = audit({"train": rows(("fine", 1), ("dull", 0)), "val": rows(("great", 1), ("awful", 0))})
    assert describe({**clean, "cut_rows": 0.0, "cut_tokens": 0.0, "unknown_tokens": 0.001}) == []


def test_classes_of_few_rows_are_named() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "rare"])})
    labels = [0] * 50 + [1] * 10 + [2] * 2
    data = {"text": [f"text {number}" for number in range(len(labels))], "label": labels}
    found = audit({"train": Dataset.from_dict(data, features=features)})
    [line] = describe({**found, "cut_rows": 0.0, "cut_tokens": 0.0, "unknown_tokens": 0.0})
    assert line == "classes of so few training rows are rarely learned (see --model.class_weights): 'rare' (2)"


def test_leaked_rows_are_left_out() -> None:
    splits = {"train": rows(*TRAIN), "validation": rows(("DULL.", 0)), "test": rows(("GOOD FUN", 1))}
    drop_leaked(splits)
    assert splits["train"]["text"] == ["!", "?"]
    assert len(splits["test"]) == 1


def test_pairs_are_alike_only_together() -> None:
    features = Features(
        {"text": Value("string"), "text_pair": Value("string"), "label": ClassLabel(names=["neg", "pos"])}
    )
    pairs = {"text": ["a", "a", "A"], "text_pair": ["b", "c", "b"], "label": [0, 1, 0]}
    assert audit({"train": Dataset.from_dict(pairs, features=features)})["near_duplicates"] == {"train": 1}
