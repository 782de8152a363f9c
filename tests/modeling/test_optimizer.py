import pytest
import torch
from torch import nn

from lit_bert.modeling.optimizer import LinearSchedule, decay_groups


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 7 / 8), (6, 0.5), (9, 1 / 8), (10, 0.0), (11, 0.0)]
)
def test_factor_rises_then_falls_to_zero(step: int, factor: float) -> None:
    schedule = LinearSchedule(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=3.0), 0.11, total_steps=10)  # 1.1: 2
    assert schedule.factor(step) == pytest.approx(factor)


def test_biases_and_layernorm_do_not_decay() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    decayed, spared = decay_groups(module, 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 4), (3, 4)]
    assert [tuple(p.shape) for p in spared["params"]] == [(3,), (3,), (3,)]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
