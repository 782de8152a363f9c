import builtins
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, ModelPruning
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from lit_bert import BertClassifier, Predictor, TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.inference.export import export
from lit_bert.modeling.lora import add_adapters, merge

TEXTS = ["a warm and funny film", "no fun"]


def train(model: BertClassifier, reviews: Path, checkpoint: Path, epochs: int = 1, **fit: Any) -> BertClassifier:
    data = TextClassificationDataModule(str(reviews), model.pretrained, batch_size=16)
    trainer = Trainer(max_epochs=epochs, **QUIET)
    trainer.fit(model, data, **fit)
    trainer.save_checkpoint(checkpoint)
    return model.eval()


def test_adapters_pooler_and_head_alone_are_trained(tiny_bert: str, reviews: Path, tmp_path: Path) -> None:
    model = BertClassifier(tiny_bert, lora_rank=2, learning_rate=0.01, weight_decay=0.1)
    before = {name: value.clone() for name, value in model.model.named_parameters()}
    train(model, reviews, tmp_path / "lora.ckpt")
    changed = {name for name, value in model.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if ".lora_" in name or "pooler" in name or name.startswith("classifier")}
    layers = model.model.config.num_hidden_layers
    assert sum(".lora_A." in name for name in changed) == 6 * layers  # query, key, value, and three dense ones


def test_the_named_layers_alone_get_adapters(tiny_bert: str) -> None:
    model = BertClassifier(tiny_bert, lora_rank=2, lora_targets=["query", "value"])
    adapted = {
        name.split(".lora_A.")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_A." in name
    }
    assert adapted == {"query", "value"}


def test_exports_are_merged_and_need_no_peft(
    tiny_bert: str, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "lora.ckpt"
    torch.manual_seed(0)
    model = train(BertClassifier(tiny_bert, lora_rank=2, learning_rate=0.05), reviews, checkpoint, epochs=4)
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without_peft(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "peft":
            raise ImportError("No module named 'peft'", name="peft")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    export(checkpoint, tmp_path / "export", {})
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    assert loaded.state_dict().keys() == BertClassifier(tiny_bert).model.state_dict().keys()
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    without = copy.deepcopy(model.model)
    for name, value in without.named_parameters():
        if ".lora_B." in name:
            value.data.zero_()
    with torch.no_grad():
        expected = model.model(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-5, rtol=1e-5)
        assert (without(ids).logits - expected).abs().max() > 0.01
    assert Predictor(tmp_path / "export")(TEXTS) == Predictor(checkpoint)(TEXTS)
    with pytest.raises(UserError, match=r"--model.lora_rank 2: it needs peft \(.*\): pip install -e '.\[lora\]'"):
        BertClassifier(tiny_bert, lora_rank=2)


def test_a_stopped_run_goes_on_to_the_bit(still_bert: str, reviews: Path, tmp_path: Path) -> None:
    constant = {"class_path": "torch.optim.lr_scheduler.ConstantLR"}

    def make() -> BertClassifier:
        torch.manual_seed(7)
        return BertClassifier(still_bert, lora_rank=2, learning_rate=0.01, lr_scheduler=constant)

    whole = train(make(), reviews, tmp_path / "whole.ckpt", epochs=2)
    train(make(), reviews, tmp_path / "half.ckpt", epochs=1)
    resumed = train(make(), reviews, tmp_path / "end.ckpt", epochs=2, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    loaded = BertClassifier.load_from_checkpoint(tmp_path / "end.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    with pytest.raises(
        UserError, match=r"--model.lora_rank 3, in 12 layers: the checkpoint has rank 2 in 12; leave out"
    ):
        BertClassifier.load_from_checkpoint(tmp_path / "end.ckpt", lora_rank=3)


def test_adapters_of_half_precision_are_added_in_float32() -> None:
    half = {"dtype": torch.bfloat16}
    state = {
        "query.base_layer.weight": torch.ones(1, 1, **half),
        "query.base_layer.bias": torch.ones(1, **half),
        "query.lora_A.default.weight": torch.full((1, 1), 2.0**-6, **half),
        "query.lora_B.default.weight": torch.full((1, 1), 2.0**-6, **half),
    }
    merged = merge(state)
    assert merged.keys() == {"query.weight", "query.bias"}
    assert merged["query.weight"].item() == 1 + 2 * 2.0**-12


def test_other_adapters_are_not_merged() -> None:
    state = {f"query.{name}": torch.ones(1, 1) for name in ("base_layer.weight", "lora_A.mine.weight")}
    assert merge(state) == state


def test_of_more_layers_too_the_pooler_has_no_adapter(tmp_path: Path) -> None:
    """From twenty names of layers on, peft looks for others that find the same layers."""
    config = BertConfig(vocab_size=60, hidden_size=8, intermediate_size=8, num_hidden_layers=4, num_attention_heads=2)
    model = BertForSequenceClassification(config)
    add_adapters(model, 2, None)
    adapted = [name for name, _ in model.named_parameters() if ".lora_A." in name]
    assert len(adapted) == 24
    assert not any("pooler" in name for name in adapted)


@pytest.mark.parametrize("callback", [BackboneFinetuning(), ModelPruning("l1_unstructured", amount=0.5)])
def test_callbacks_that_change_the_encoder_are_refused(tiny_bert: str, reviews: Path, callback: Callback) -> None:
    data = TextClassificationDataModule(str(reviews), tiny_bert)
    with pytest.raises(UserError, match=rf"--model.lora_rank 2: it leaves .* {type(callback).__name__} changes it"):
        Trainer(max_epochs=1, **{**QUIET, "callbacks": [callback]}).fit(BertClassifier(tiny_bert, lora_rank=2), data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_rank": -1}, r"--model.lora_rank -1: it must be at least 0"),
        ({"lora_targets": ["query"]}, r"--model.lora_targets query: set --model.lora_rank, too"),
        (
            {"lora_rank": 2, "lora_targets": []},
            r"--model.lora_targets \[\]: the linear layers of a bert encoder are dense",
        ),
        (
            {"lora_rank": 2, "lora_targets": ["qery", "value"]},
            r"lora_targets qery: the linear layers of a bert encoder are",
        ),
    ],
)
def test_mistakes(tiny_bert: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BertClassifier(tiny_bert, **options)
