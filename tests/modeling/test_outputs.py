import pytest
import torch

from lit_bert.modeling.outputs import gather_outputs


def batches(*index: list[int]) -> list[dict[str, torch.Tensor]]:
    """Batches in which each row's prediction is a number of its own."""
    rows = iter(range(100))
    return [{"index": torch.tensor(part), "preds": torch.tensor([next(rows) for _ in part])} for part in index]


def test_no_batches_are_no_outputs() -> None:
    assert gather_outputs([]) == {}


@pytest.mark.parametrize("deduplicate", [False, True])
def test_rows_come_in_the_order_of_their_index(deduplicate: bool) -> None:
    assert gather_outputs(batches([3, 1], [2, 0]), deduplicate)["preds"].tolist() == [3, 1, 2, 0]


def test_a_row_that_the_loader_repeats_counts_once() -> None:
    assert gather_outputs(batches([1, 0], [1, 2]), deduplicate=True)["index"].tolist() == [0, 1, 2]


def test_an_index_that_begins_anew_in_each_batch_loses_no_row() -> None:
    assert gather_outputs(batches([0, 1, 2], [0, 1]))["preds"].tolist() == [0, 1, 2, 3, 4]


def test_without_an_index_rows_stay_as_they_come() -> None:
    assert gather_outputs([{"preds": torch.tensor([5, 4])}, {"preds": torch.tensor([3])}])["preds"].tolist() == [
        5,
        4,
        3,
    ]
