import builtins
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET
from lightning.pytorch import Trainer
from transformers import AutoModelForSequenceClassification

from lit_bert import BertClassifier, Predictor, TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.inference.export import export

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
    with pytest.raises(
        UserError, match=r"--model.lora_targets qery: the linear layers of a bert encoder are dense, key"
    ):
        BertClassifier(tiny_bert, lora_rank=2, lora_targets=["qery", "value"])


def test_exports_are_merged_and_need_no_peft(
    tiny_bert: str, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "lora.ckpt"
    model = train(BertClassifier(tiny_bert, lora_rank=2, learning_rate=0.05), reviews, checkpoint)
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
    with torch.no_grad():
        expected, unadapted = model.model(ids).logits, BertClassifier(tiny_bert).model.eval()(ids).logits
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert (expected - unadapted).abs().max() > 0.01
    assert Predictor(tmp_path / "export")(TEXTS) == Predictor(checkpoint)(TEXTS)
    with pytest.raises(UserError, match=r"--model.lora_rank 2: install peft with pip install -e '.\[lora\]'"):
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
    with pytest.raises(UserError, match=r"--model.lora_rank 3: the checkpoint has rank 2, in \d+ layers"):
        BertClassifier.load_from_checkpoint(tmp_path / "end.ckpt", lora_rank=3)


def test_a_negative_rank_is_refused(tiny_bert: str) -> None:
    with pytest.raises(UserError, match=r"--model.lora_rank -1: it must be at least 0"):
        BertClassifier(tiny_bert, lora_rank=-1)
