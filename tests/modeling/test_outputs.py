import pytest
import torch

from lit_bert.modeling.outputs import gather_outputs


def batches(*index: list[int]) -> list[dict[str, torch.Tensor]]:
    """Batches in which each row's prediction is a number of its own."""
    rows = iter(range(100))
    return [{"index": torch.tensor(part), "preds": torch.tensor([next(rows) for _ in part])} for part in index]


@pytest.mark.parametrize(
    ("index", "deduplicate", "expected"),
    [
        ([[3, 1], [2, 0]], False, [3, 1, 2, 0]),
        ([[3, 1], [2, 0]], True, [3, 1, 2, 0]),
        ([[1, 0], [1, 2]], True, [1, 0, 3]),  # a row that the loader repeats
        ([[0, 1, 2], [0, 1]], False, [0, 1, 2, 3, 4]),  # an index that begins anew in each batch
    ],
)
def test_rows_come_in_the_order_of_their_index(index: list[list[int]], deduplicate: bool, expected: list[int]) -> None:
    assert gather_outputs(batches(*index), deduplicate)["preds"].tolist() == expected


def test_rows_without_an_index_or_a_label_and_no_rows() -> None:
    unnumbered = [{"preds": torch.tensor([5, 4])}, {"preds": torch.tensor([3])}]
    assert gather_outputs(unnumbered)["preds"].tolist() == [5, 4, 3]
    labelled = {"preds": torch.tensor([5, 4]), "labels": torch.tensor([1, -100])}
    assert gather_outputs([labelled])["preds"].tolist() == [5]
    assert gather_outputs([]) == {}
