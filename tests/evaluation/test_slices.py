from lit_bert.evaluation.slices import slices


def test_slices_are_told_by_words_and_length() -> None:
    texts = ["It is not bad.", "Long but GOOD", "I don't care", "nothing", "a knot, a button", "She couldn\u2019t"]
    masks = {title: mask.nonzero()[0].tolist() for title, mask in slices(texts, [8, 7, 6, 5, 4, 3]).items()}
    assert masks["negation"] == [0, 2, 3, 5]
    assert masks["no negation"] == [1, 4]
    assert masks["contrast"] == [1]
    assert masks["no contrast"] == [0, 2, 3, 4, 5]
    lengths = [title for title in masks if title.endswith("tokens")]
    assert sorted(row for title in lengths for row in masks[title]) == list(range(6))
    assert lengths[0].startswith("3 to ")
    assert lengths[-1].endswith(" to 8 tokens")


def test_sentences_of_one_length_are_not_cut_by_it() -> None:
    assert list(slices(["a", "b"], [5, 5])) == ["no negation", "no contrast"]


def test_most_sentences_of_one_length_still_are_all_in_some_slice() -> None:
    masks = slices(["a"] * 6, [3, 3, 3, 3, 3, 9])
    lengths = [mask for title, mask in masks.items() if title.endswith("tokens")]
    assert sum(lengths).tolist() == [1] * 6  # type: ignore[union-attr]
