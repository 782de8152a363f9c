import numpy as np
import pytest
import torch
from datasets import Dataset

from lit_bert.data.collate import IGNORED, collate, make_loader
from lit_bert.data.sampler import LengthGroupedSampler


def rows_of(sampler: LengthGroupedSampler) -> list[int]:
    return [row for row, _ in sampler]


LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_row_comes_on_every_epoch_and_ranks_take_equally_many(ranks: int, grouped: bool) -> None:
    samplers = [LengthGroupedSampler(LENGTHS, 16, True, grouped, 7, ranks, rank) for rank in range(ranks)]
    orders = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [rows_of(sampler) for sampler in samplers]
        assert {len(share) for share in shares} == {len(samplers[0])}
        assert sorted({row for share in shares for row in share}) == list(range(1003))
        orders.append(shares)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_evaluation_sees_each_row_once_in_the_same_batches(ranks: int) -> None:
    samplers = [LengthGroupedSampler(LENGTHS, 16, False, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    shares = [rows_of(sampler) for sampler in samplers]
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
    assert sorted(row for share in shares for row in share) == list(range(1003))
    alone = rows_of(LengthGroupedSampler(LENGTHS, 16, False))
    batches = {tuple(share[start : start + 16]) for share in shares for start in range(0, len(share), 16)}
    assert batches == {tuple(alone[start : start + 16]) for start in range(0, 1003, 16)}


@pytest.mark.parametrize("rows", [1, 5, 1003])
def test_more_ranks_than_rows(rows: int) -> None:
    for shuffle in (True, False):
        samplers = [LengthGroupedSampler(LENGTHS[:rows], 2, shuffle, num_replicas=8, rank=rank) for rank in range(8)]
        shares = [rows_of(sampler) for sampler in samplers]
        assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
        assert {row for share in shares for row in share} == set(range(rows))
        assert not shuffle or len({len(share) for share in shares}) == 1


@pytest.mark.parametrize("rows", [96, 97, 100, 127])
@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4)])
def test_a_step_has_the_same_rows_and_weights_however_they_are_spread(rows: int, ranks: int, accumulate: int) -> None:
    size = 32 // ranks // accumulate
    steps: list[dict[int, float]] = []
    for rank in range(ranks):
        sampler = LengthGroupedSampler(LENGTHS[:rows], size, True, True, 3, ranks, rank, accumulate)
        for place, (row, weight) in enumerate(sampler):
            step = place // size // accumulate
            while step >= len(steps):
                steps.append({})
            if weight:
                assert row not in steps[step]
                steps[step][row] = weight / ranks / accumulate
    order = rows_of(LengthGroupedSampler(LENGTHS[:rows], 32, True, True, 3))
    whole = [order[start : start + 32] for start in range(0, rows, 32)]
    assert [set(step) for step in steps] == [set(step) for step in whole]
    for step in steps:
        assert list(step.values()) == pytest.approx([1 / len(step)] * len(step))


@pytest.mark.parametrize("limit", [5, 0.5])
def test_the_weights_of_an_epoch_that_is_cut_short_are_those_of_its_last_step(limit: float) -> None:
    for rank in (0, 1):
        sampler = LengthGroupedSampler(LENGTHS[:80], 4, True, num_replicas=2, rank=rank, accumulate=3, limit=limit)
        assert sampler.weights()[:20].tolist() == pytest.approx([6 / 24] * 12 + [6 / 16] * 8)  # 3 batches, then 2


def test_a_row_that_is_only_repeated_counts_nowhere() -> None:
    samplers = [LengthGroupedSampler(LENGTHS[:5], 4, False, num_replicas=3, rank=rank) for rank in range(3)]
    assert [[weight for _, weight in sampler] for sampler in samplers] == [[1.0] * 4, [1.0], [0.0]]
    rows = Dataset.from_dict({"input_ids": [[5]] * 5, "label": [1] * 5, "index": list(range(5))})
    [batch] = make_loader(rows, samplers[2], 0, (), 0)
    assert (batch["labels"].tolist(), batch["weights"].tolist()) == ([IGNORED], [0.0])
    [batch, *_] = make_loader(rows, samplers[0], 0, (), 0)
    assert (batch["labels"].tolist(), batch["weights"].tolist()) == ([1] * 4, [1.0] * 4)


def test_a_resumed_epoch_leaves_out_what_was_done() -> None:
    fresh = LengthGroupedSampler(LENGTHS, 16, True, seed=1)
    fresh.set_epoch(2)
    whole = list(fresh)
    sampler = LengthGroupedSampler(LENGTHS, 16, True, seed=1, start=(2, 5))
    assert list(sampler) == whole[80:]
    assert len(sampler) == len(whole)
    sampler.set_epoch(3)
    assert len(list(sampler)) == len(whole)


def test_batches_hold_rows_of_about_equal_length_the_longest_first() -> None:
    order = rows_of(LengthGroupedSampler(LENGTHS, 16, True, seed=1))
    batches = [LENGTHS[order[start : start + 16]] for start in range(0, len(order), 16)]
    computed = sum(batch.max() * len(batch) for batch in batches)
    assert computed < 1.05 * LENGTHS.sum()
    assert batches[0].max() == LENGTHS.max()


def test_order_is_a_function_of_seed_and_epoch() -> None:
    first, again, other = (list(LengthGroupedSampler(LENGTHS, 16, True, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_collate_pads_on_the_right() -> None:
    rows = [{"input_ids": [5, 6, 7], "label": 1, "index": 4}, {"input_ids": [8], "label": 0, "index": 2}]
    batch = collate(rows, pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert batch["index"].tolist() == [4, 2]
    assert collate(rows, 0, lengths=[2, 4, 5])["input_ids"].shape == torch.Size([2, 4])
    assert collate(rows, 0, lengths=[2])["input_ids"].shape == torch.Size([2, 3])


def test_a_mask_is_there_only_if_something_is_padded_or_shapes_are_fixed() -> None:
    row = {"input_ids": [5, 6, 7], "label": 1, "index": 4}
    assert "attention_mask" not in collate([row, row], pad_token_id=0)
    assert collate([row, row], pad_token_id=0, lengths=[3])["attention_mask"].all()
