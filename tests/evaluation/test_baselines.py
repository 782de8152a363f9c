from conftest import BAD, GOOD, Patch

from lit_bert.evaluation import baselines


def test_majority_is_the_most_frequent_class_of_training() -> None:
    assert baselines.majority([2, 0, 2, 1], 3).tolist() == [2, 2, 2]


def test_linear_tells_words_apart() -> None:
    texts, labels = [*GOOD, *BAD], [1] * 5 + [0] * 5
    found = baselines.linear(texts, labels, ["great", "awful"], ["a stupid film"])
    assert [preds.tolist() for preds in found] == [[1, 0], [0]]


def test_linear_of_one_class_is_that_class() -> None:
    assert baselines.linear(GOOD, [1] * 5, ["awful"])[0].tolist() == [1]


def test_linear_sees_no_more_rows_than_it_says(monkeypatch: Patch) -> None:
    monkeypatch.setattr(baselines, "MAX_TRAIN_ROWS", 4)
    texts = [*(f"good{n}" for n in range(50)), *(f"bad{n}" for n in range(50))]
    [preds] = baselines.linear(texts, [1] * 50 + [0] * 50, texts)
    assert len(set(preds.tolist())) <= 2
    assert (preds == baselines.linear(texts, [1] * 50 + [0] * 50, texts)[0]).all()
    assert (preds.numpy() == [1] * 50 + [0] * 50).mean() < 0.6  # it has seen four words
