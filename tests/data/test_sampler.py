import numpy as np
import pytest
import torch
from datasets import Dataset

from lit_bert.data.collate import IGNORED, WeightedRows, collate
from lit_bert.data.sampler import LengthGroupedSampler

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


def order(sampler: LengthGroupedSampler) -> list[int]:
    return [row for row, _ in sampler]


@pytest.mark.parametrize("rows", [1, 5, 1003])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("grouped", [True, False])
def test_training_sees_every_row_on_every_epoch_and_ranks_take_equally_many(
    rows: int, ranks: int, grouped: bool
) -> None:
    samplers = [LengthGroupedSampler(LENGTHS[:rows], 16, True, grouped, 7, ranks, rank) for rank in range(ranks)]
    epochs = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [order(sampler) for sampler in samplers]
        assert {len(share) for share in shares} == {len(samplers[0])}
        assert {row for share in shares for row in share} == set(range(rows))
        epochs.append(shares)
    assert epochs[0] != epochs[1] or rows < 1003


@pytest.mark.parametrize("rows", [1, 5, 1003])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_evaluation_counts_each_row_once_in_the_same_batches(rows: int, ranks: int) -> None:
    samplers = [LengthGroupedSampler(LENGTHS[:rows], 16, False, num_replicas=ranks, rank=n) for n in range(ranks)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
    assert sorted(row for share in shares for row, weight in share if weight) == list(range(rows))
    alone = order(LengthGroupedSampler(LENGTHS[:rows], 16, False))
    batches = {tuple(row for row, _ in share[start : start + 16]) for share in shares for start in range(0, rows, 16)}
    assert batches - {()} == {tuple(alone[start : start + 16]) for start in range(0, rows, 16)}


@pytest.mark.parametrize("rows", [96, 97, 100, 127])
@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4)])
def test_a_step_has_the_same_rows_and_weights_however_they_are_spread(rows: int, ranks: int, accumulate: int) -> None:
    size = 32 // ranks // accumulate
    steps: list[dict[int, float]] = [{} for _ in range(0, rows, 32)]
    for rank in range(ranks):
        share = list(LengthGroupedSampler(LENGTHS[:rows], size, True, True, 3, ranks, rank, accumulate))
        for place, (row, weight) in enumerate(share):
            if weight:
                step = steps[place // size // accumulate]
                assert row not in step
                step[row] = weight / ranks / accumulate
    alone = order(LengthGroupedSampler(LENGTHS[:rows], 32, True, True, 3))
    assert [set(step) for step in steps] == [set(alone[start : start + 32]) for start in range(0, rows, 32)]
    for step in steps:
        assert list(step.values()) == pytest.approx([1 / len(step)] * len(step))


def test_a_resumed_epoch_leaves_out_what_was_done() -> None:
    whole = LengthGroupedSampler(LENGTHS, 16, True, seed=1)
    resumed = LengthGroupedSampler(LENGTHS, 16, True, seed=1, start=(2, 5))
    for epoch, done in ((2, 80), (3, 0)):
        whole.set_epoch(epoch)
        resumed.set_epoch(epoch)
        assert list(resumed) == list(whole)[done:]
        assert len(resumed) == len(whole)


def test_batches_hold_rows_of_about_equal_length_the_longest_first() -> None:
    rows = order(LengthGroupedSampler(LENGTHS, 16, True, seed=1))
    batches = [LENGTHS[rows[start : start + 16]] for start in range(0, len(rows), 16)]
    computed = sum(batch.max() * len(batch) for batch in batches)
    assert computed < 1.05 * LENGTHS.sum()
    assert batches[0].max() == LENGTHS.max()
    assert order(LengthGroupedSampler(LENGTHS, 16, True, seed=1)) == rows
    assert order(LengthGroupedSampler(LENGTHS, 16, True, seed=2)) != rows


def test_collate_pads_on_the_right_and_masks_only_if_need_be() -> None:
    rows = [{"input_ids": [5, 6, 7], "label": 1, "index": 4}, {"input_ids": [8], "label": 0, "index": 2}]
    batch = collate(rows, pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert batch["index"].tolist() == [4, 2]
    assert collate(rows, 0, lengths=[2, 4, 5])["input_ids"].shape == torch.Size([2, 4])
    assert collate(rows, 0, lengths=[2])["input_ids"].shape == torch.Size([2, 3])
    assert "attention_mask" not in collate(rows[:1], pad_token_id=0)
    assert collate(rows[:1], pad_token_id=0, lengths=[3])["attention_mask"].all()


def test_a_row_that_is_only_repeated_has_no_label() -> None:
    rows = WeightedRows(Dataset.from_dict({"input_ids": [[5], [6]], "label": [0, 1], "index": [0, 1], "x": [0, 0]}))
    assert rows[1] == {"input_ids": [6], "label": 1, "index": 1}
    assert rows[1, 0.5] == {"input_ids": [6], "label": 1, "index": 1, "weight": 0.5}
    assert rows[1, 0.0]["label"] == IGNORED
