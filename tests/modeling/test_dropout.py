import math

import pytest
import torch
from conftest import Patch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from lit_bert.modeling import dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drops_as_often_and_scales_as_much_as_torch(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows, columns = 1001, 999  # no multiple of four
    outcome = dropout.Dropout(p)(torch.ones(rows, columns, dtype=dtype)).float()
    kept = outcome != 0
    precision = 2**-8 if dtype is torch.bfloat16 else 1e-4
    assert outcome[kept].unique().tolist() == pytest.approx([1 / (1 - p)], rel=precision)
    for share, draws in ((kept.float().mean(), rows * columns), (kept[0].float().mean(), columns)):
        assert abs(share - (1 - p)) < 4.5 * math.sqrt(p * (1 - p) / draws)  # one chance in 150,000 to fail wrongly
    for neighbour in (kept[:, 1:] == kept[:, :-1], kept[1:] == kept[:-1]):  # elements are independent
        same = p * p + (1 - p) * (1 - p)
        assert abs(neighbour.float().mean() - same) < 4.5 * math.sqrt(same * (1 - same) / neighbour.numel()) + 1e-3


def test_follows_the_seed_and_the_random_state() -> None:
    layer, ones = dropout.Dropout(0.5), torch.ones(100)
    torch.manual_seed(1)
    first, state, second = layer(ones), torch.get_rng_state(), layer(ones)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(layer(ones), first)
    torch.set_rng_state(state)
    assert torch.equal(layer(ones), second)


def test_the_gradient_goes_where_the_values_went_and_evaluation_drops_nothing() -> None:
    layer = dropout.Dropout(0.3)
    values = torch.rand(50, 50).add_(1).requires_grad_()
    outcome = layer(values)
    outcome.sum().backward()
    torch.testing.assert_close(values.grad, (outcome / values).detach())
    assert torch.equal(layer.eval()(values), values)
    assert torch.equal(dropout.Dropout(0.0)(values), values)
    assert torch.equal(dropout.Dropout(1.0)(values), torch.zeros_like(values))


def test_attention_is_pytorchs_but_for_the_random_numbers(monkeypatch: Patch) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 5, 8) for _ in range(3))
    mask = torch.ones(3, 1, 1, 5, dtype=torch.bool)
    mask[0, :, :, 3:] = False
    for allowed in (mask, None):
        expected = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed).transpose(1, 2)
        monkeypatch.setattr(dropout, "scaled_mask", lambda like, p: torch.ones_like(like))
        torch.testing.assert_close(dropout.attention(nn.Module(), query, key, value, allowed, 0.1)[0], expected)
        monkeypatch.undo()
        many = [dropout.attention(nn.Module(), query, key, value, allowed, 0.1)[0] for _ in range(3000)]
        torch.testing.assert_close(torch.stack(many).mean(0), expected, atol=0.05, rtol=0.05)
        assert not torch.equal(many[0], many[1])


def test_a_model_of_transformers_gives_the_same_logits(tiny_bert: str) -> None:
    ids = torch.randint(5, 20, (4, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    without = model(input_ids=ids, attention_mask=mask).logits
    dropout.install(model)
    assert sum(type(layer) is dropout.Dropout for layer in model.modules()) == 8
    assert not [layer for layer in model.modules() if type(layer) is nn.Dropout]
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, without)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 1e-9  # so rare that it rounds to never: the training path, without its randomness
    torch.testing.assert_close(model.train()(input_ids=ids, attention_mask=mask).logits, without)
