import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET
from equality import same
from lightning.pytorch import Trainer
from models import Weights, close, weights_of
from safetensors.torch import save_file
from sklearn.metrics import f1_score
from torch import nn
from transformers import AutoTokenizer, BertConfig, GPT2Config, GPT2LMHeadModel

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.cli import main
from lit_bert.errors import UserError


@pytest.fixture
def model(tiny_bert: str) -> BertClassifier:
    return BertClassifier(tiny_bert, learning_rate=0.003)


def test_dropout_is_live_in_the_first_training_step(tiny_bert: str, data: Any) -> None:
    """Traps: from_pretrained gives a model in eval mode, and Lightning keeps it (PL#20105)."""
    seen = []

    class Watched(BertClassifier):
        def training_step(self, batch, batch_idx):
            seen.append(all(part.training for part in self.modules() if isinstance(part, nn.Dropout)))
            inputs = batch["input_ids"], batch.get("attention_mask")
            seen.append(not torch.equal(self(*inputs), self(*inputs)))
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            seen.append(not any(part.training for part in self.modules()))
            super().validation_step(batch, batch_idx)

    model = Watched(tiny_bert)
    Trainer(max_steps=1, limit_val_batches=1, **QUIET).fit(model, data)
    assert seen
    assert all(seen)
    assert any(isinstance(part, nn.Dropout) for part in model.modules())


def test_it_learns(tiny_bert: str, data: Any) -> None:
    torch.manual_seed(0)
    model = BertClassifier(tiny_bert, learning_rate=0.003)
    trainer = Trainer(max_epochs=8, **QUIET)
    trainer.fit(model, data)
    [metrics] = trainer.test(model, data, verbose=False)
    assert metrics["test/acc"] == 1.0
    assert metrics["test/loss"] < math.log(2)


def test_metrics_are_those_of_all_rows_together(model: BertClassifier, data: Any) -> None:
    data.eval_batch_size = 7  # 30 rows: the last batch is smaller
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(model, data)
    [metrics] = trainer.test(model, data, verbose=False)
    data.eval_batch_size = 1000
    [whole] = list(data.test_dataloader())
    model.eval()
    with torch.no_grad():
        logits = model(whole["input_ids"], whole["attention_mask"])
    preds, labels = logits.argmax(-1), whole["labels"]
    assert metrics["test/loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["test/acc"] == pytest.approx((preds == labels).float().mean().item())
    assert metrics["test/f1"] == pytest.approx(f1_score(labels, preds, average="macro"))
    assert set(metrics) == {f"test/{name}" for name in ("acc", "f1", "auroc", "ece", "loss")}


def test_schedule_and_decay_groups_reach_the_optimizer(tiny_bert: str, data: Any) -> None:
    rates = []

    class Watched(BertClassifier):
        def on_before_optimizer_step(self, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])
            self.groups = optimizer.param_groups

    model = Watched(tiny_bert, learning_rate=1.0, warmup_ratio=0.25, weight_decay=0.1)
    Trainer(max_epochs=2, accumulate_grad_batches=2, **QUIET).fit(model, data)
    assert rates == pytest.approx([0, 0.5, 1, 0.75, 0.5, 0.25])  # 2 x ceil(5 / 2) steps, 2 of them warm-up
    assert [group["weight_decay"] for group in model.groups] == [0.1, 0.0]


def test_a_checkpoint_needs_nothing_but_itself(tiny_bert: str, reviews: Path, tmp_path: Path) -> None:
    folder, path = shutil.copytree(tiny_bert, tmp_path / "bert"), tmp_path / "one.ckpt"
    model = BertClassifier(str(folder), learning_rate=0.003)
    data = TextClassificationDataModule(str(reviews), str(folder), batch_size=8)
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(path)
    [first] = trainer.test(model, data, verbose=False)
    fresh = BertClassifier(str(folder))
    shutil.rmtree(folder)
    hyper_parameters = torch.load(path, weights_only=True)["hyper_parameters"]
    assert json.loads(json.dumps(hyper_parameters)) == hyper_parameters
    assert hyper_parameters["encoder_config"]["id2label"] == {"0": "neg", "1": "pos"}
    alone = BertClassifier.load_from_checkpoint(path, weights_only=True)
    assert alone.class_names == ["neg", "pos"]
    assert alone.model.config.id2label == {0: "neg", 1: "pos"}
    assert "tokenizer.json" in alone.tokenizer_files
    same(weights_of(alone), weights_of(model))
    data = TextClassificationDataModule(str(reviews), str(path), batch_size=8)
    [again] = Trainer(**QUIET).test(fresh, data, path, verbose=False, weights_only=True)
    assert again == first
    more = Trainer(max_epochs=2, **QUIET)
    more.fit(alone, data, ckpt_path=path, weights_only=True)
    assert more.global_step == 10


def test_a_checkpoint_of_other_classes_or_another_start_is_refused(
    tiny_bert: str, reviews: Path, tmp_path: Path, model: BertClassifier, data: Any
) -> None:
    trainer = Trainer(max_steps=1, limit_val_batches=0, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    shutil.copytree(tiny_bert, "other")
    with pytest.raises(UserError, match=r"fine-tuned from .*tiny_bert.*, not from --model.pretrained ./other"):
        Trainer(**QUIET).test(BertClassifier("./other"), data, ckpt_path=tmp_path / "two.ckpt", weights_only=True)
    for split in ("train", "validation", "test"):
        with (reviews / f"{split}.csv").open("a") as file:
            file.write("so so,meh\n")
    three = TextClassificationDataModule(str(reviews), tiny_bert)
    with pytest.raises(UserError, match=r"classes are neg, pos, those of --data.dataset .* are meh, neg, pos"):
        Trainer(**QUIET).test(BertClassifier(tiny_bert), three, ckpt_path=tmp_path / "two.ckpt", weights_only=True)


def test_what_is_no_encoder_is_refused(tiny_bert: str, data: Any, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt2")
    empty = tmp_path / "empty"
    BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(empty)
    save_file({"elsewhere.weight": torch.zeros(2)}, empty / "model.safetensors", metadata={"format": "pt"})
    for folder, message in (
        (tmp_path / "gpt2", "a gpt2 model is not an encoder"),
        (empty, "its weights are not those of a bert encoder"),
    ):
        tokenizer.save_pretrained(folder)
        with pytest.raises(UserError, match=message):
            Trainer(max_steps=1, **QUIET).fit(BertClassifier(str(folder)), data)


def test_an_untrained_classifier_is_not_evaluated(model: BertClassifier, data: Any) -> None:
    with pytest.raises(UserError, match="it has no trained classifier for neg, pos"):
        Trainer(**QUIET).test(model, data)


@pytest.mark.parametrize("option", ["learning_rate", "warmup_ratio", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_values_out_of_range(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--model.{option} {value}: it must be between 0 and"):
        BertClassifier(**{option: value})


def weights_after(start: str, reviews: Path, batch_size: int, accumulate: int = 1) -> Weights:
    """Return the weights after two epochs of 40 rows."""
    data = TextClassificationDataModule(str(reviews), start, batch_size=batch_size)
    model = BertClassifier(start, learning_rate=0.003, warmup_ratio=0.1, weight_decay=0.1)
    Trainer(max_epochs=2, gradient_clip_val=1.0, accumulate_grad_batches=accumulate, **QUIET).fit(model, data)
    return weights_of(model)


def test_accumulation_follows_the_same_path(still_bert: str, reviews: Path) -> None:
    """Trap: Lightning divides the last, shorter step by the full count (PL#19987)."""
    whole = weights_after(still_bert, reviews, 16)  # steps of 16, 16 and 8 rows
    for batch_size, accumulate in ((8, 2), (4, 4)):
        close(whole, weights_after(still_bert, reviews, batch_size, accumulate))


@pytest.mark.filterwarnings("ignore:You requested to overfit", "ignore:`ModelCheckpoint")
@pytest.mark.parametrize(
    "settings",
    [
        {"overfit_batches": 2},
        {"log_every_n_steps": 0},
        {"limit_val_batches": 0},
        {"num_sanity_val_steps": 1},
        {"fast_dev_run": True},
        {"max_steps": 3},
    ],
    ids=str,
)
def test_settings_of_the_trainer_that_change_its_loops(recipe: str, settings: dict[str, object]) -> None:
    [(name, value)] = settings.items()
    cli = main(["fit", "--config", recipe, "--trainer.max_epochs=1", f"--trainer.{name}={value}"])
    assert cli.trainer.global_step > 0
