import numpy as np
import pytest
import torch

from lit_bert.batching import LengthGroupedSampler, collate

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_row_comes_on_every_epoch_and_ranks_take_equally_many(ranks: int, grouped: bool) -> None:
    samplers = [LengthGroupedSampler(LENGTHS, 16, True, grouped, 7, ranks, rank) for rank in range(ranks)]
    orders = []
    for epoch in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares = [list(sampler) for sampler in samplers]
        assert {len(share) for share in shares} == {len(samplers[0])}
        assert sorted({row for share in shares for row in share}) == list(range(1003))
        orders.append(shares)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_evaluation_sees_each_row_once(ranks: int) -> None:
    samplers = [LengthGroupedSampler(LENGTHS, 16, False, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]
    assert sorted(row for sampler in samplers for row in sampler) == list(range(1003))


def test_batches_hold_rows_of_about_equal_length_the_longest_first() -> None:
    order = list(LengthGroupedSampler(LENGTHS, 16, True, seed=1))
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
    assert collate(rows, 0, length=5)["input_ids"].shape == torch.Size([2, 5])
