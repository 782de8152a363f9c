"""The parts taken out and recombined, as in scripts and projects of one's own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET
from equality import same
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningCLI
from models import weights_of
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoTokenizer,
    Data2VecTextConfig,
    Data2VecTextForMaskedLM,
    DataCollatorWithPadding,
    DebertaConfig,
    DebertaForMaskedLM,
    FunnelConfig,
    FunnelForMaskedLM,
    LongformerConfig,
    LongformerForMaskedLM,
)

from lit_bert import BertClassifier, RottenTomatoesDataModule, TextClassificationDataModule
from lit_bert.callbacks.row_recorder import RowRecorder
from lit_bert.errors import UserError
from lit_bert.evaluation.finish import evaluate

SCHEDULES: dict[str, Any] = {
    "onecycle": lambda sgd: torch.optim.lr_scheduler.OneCycleLR(sgd, [0.1, 0.2], total_steps=10),
    "cosine": lambda sgd: torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 10),
    "lambda": lambda sgd: torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1 / (1 + step)),
    "none": lambda sgd: torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0),
}


class OwnOptimizer(BertClassifier):
    """Records the learning rates and weight decays of each step."""

    kind = "none"

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.steps: list[list[tuple[float, float]]] = []

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": list(self.backbone.parameters()), "lr": 0.1, "weight_decay": 0.3},
            {"params": list(self.model.classifier.parameters()), "lr": 0.2, "weight_decay": 0.4},
        ]
        sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        if self.kind == "none":
            return sgd
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": SCHEDULES[self.kind](sgd), "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.steps.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_an_own_optimizer_keeps_its_learning_rates(tiny_bert: str, data: Any, kind: str, tmp_path: Path) -> None:
    def trained(epochs: int, ckpt_path: Path | None = None) -> tuple[Trainer, OwnOptimizer]:
        model = OwnOptimizer(tiny_bert, learning_rate=7.0, weight_decay=7.0)
        model.kind = kind
        trainer = Trainer(max_epochs=epochs, **QUIET)
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return trainer, model

    expected = []  # what PyTorch alone makes of it
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)]
    sgd = torch.optim.SGD(groups, momentum=0.9)
    scheduler = SCHEDULES[kind](sgd)
    for _ in range(10):
        expected.append([group["lr"] for group in sgd.param_groups])
        sgd.step()
        scheduler.step()
    _, whole = trained(2)
    assert [[rate for rate, _ in step] for step in whole.steps] == [pytest.approx(rates) for rates in expected]
    assert {decay for step in whole.steps for _, decay in step} == {0.3, 0.4}
    half, _ = trained(1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    _, rest = trained(2, tmp_path / "half.ckpt")
    assert rest.steps == whole.steps[5:]


class HuggingFaceData(LightningDataModule):
    """Loaders as a tutorial of transformers has them."""

    def __init__(self, folder: str, index: bool = False) -> None:
        super().__init__()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        texts = ["a warm and funny film", "great fun", "no fun", "awful", "a moving , clever story", "a cold film"] * 10
        self.rows = [
            {**tokenizer(text), "label": number % 2} | ({"index": number % 8} if index else {})
            for number, text in enumerate(texts)
        ]
        self.collate = DataCollatorWithPadding(tokenizer)

    def loader(self, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=8, shuffle=shuffle, collate_fn=self.collate)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader()

    test_dataloader = predict_dataloader = val_dataloader


@pytest.mark.parametrize("as_loaders", [False, True], ids=["data module", "loaders"])
@pytest.mark.parametrize("index", [False, True], ids=["no index", "an index that begins anew in each batch"])
def test_batches_of_hugging_face_collators(tiny_bert: str, as_loaders: bool, index: bool) -> None:
    data = HuggingFaceData(tiny_bert, index)
    [batch, *_] = data.loader()
    assert {"input_ids", "attention_mask", "token_type_ids", "labels"} == set(batch) - {"index"}
    model, recorder = BertClassifier(tiny_bert, learning_rate=0.003), RowRecorder()
    trainer = Trainer(max_epochs=1, callbacks=[recorder], **QUIET)
    if as_loaders:
        trainer.fit(model, data.loader(shuffle=True), data.loader())
    else:
        trainer.fit(model, data)
    given: Any = {"dataloaders": data.loader()} if as_loaders else {"datamodule": data}
    assert trainer.validate(model, verbose=False, **given)[0].keys() >= {"val/acc", "val/loss"}
    [metrics] = trainer.test(model, verbose=False, **given)
    predictions = trainer.predict(model, **given)
    preds = torch.cat([batch["preds"] for batch in predictions])  # type: ignore[index, union-attr]
    labels = torch.tensor([row["label"] for row in data.rows])
    assert metrics["test/acc"] == pytest.approx((preds == labels).float().mean().item())
    kept = {split: len(outputs["labels"]) for split, outputs in recorder.rows.items()}
    assert kept == dict.fromkeys(("train", "val", "test"), 60)


def test_token_types_reach_the_encoder(tiny_bert: str) -> None:
    model = BertClassifier(tiny_bert).eval()
    ids, types = torch.tensor([[2, 5, 3, 6, 3]]), torch.tensor([[0, 0, 0, 1, 1]])
    assert not torch.equal(model(ids), model(ids, token_type_ids=types))
    assert torch.equal(model(ids), model(ids, token_type_ids=types * 0))


class Weighted(BertClassifier):
    """Has a buffer, a loss and a head of its own."""

    def __init__(self, factor: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("class_weights", torch.tensor([1.0, factor]))
        self.extra = nn.Linear(2, 2)

    def forward(self, input_ids: Any, **kwargs: Any) -> Any:
        return self.extra(super().forward(input_ids, **kwargs))

    def compute_loss(self, logits: Any, batch: Any) -> Any:
        return nn.functional.cross_entropy(logits, batch["labels"], self.class_weights, reduction="none")


@pytest.mark.filterwarnings("ignore:Found keys that are in the model state dict")
def test_a_subclass_with_a_buffer_and_a_head_is_saved_and_loaded(tiny_bert: str, data: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "bert")
    model = Weighted(factor=3.0, pretrained=str(folder), learning_rate=0.003)
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    shutil.rmtree(folder)
    again = Weighted.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert again.class_weights.tolist() == [1.0, 3.0]
    same(weights_of(again), weights_of(model))
    content = torch.load(tmp_path / "own.ckpt", weights_only=True)
    del content["state_dict"]["extra.bias"]
    torch.save(content, tmp_path / "less.ckpt")
    with pytest.raises(RuntimeError, match=r"extra\.bias"):
        Weighted.load_from_checkpoint(tmp_path / "less.ckpt", weights_only=True)
    less = Weighted.load_from_checkpoint(tmp_path / "less.ckpt", strict=False, weights_only=True)
    assert torch.equal(less.extra.weight, model.extra.weight)


class Reduced(BertClassifier):
    def compute_loss(self, logits: Any, batch: Any) -> Any:
        return nn.functional.cross_entropy(logits, batch["labels"])


def test_a_loss_that_is_reduced_is_refused(tiny_bert: str, data: Any) -> None:
    with pytest.raises(UserError, match=r"compute_loss returned a tensor of shape \(\) for 8 rows"):
        Trainer(max_epochs=1, **QUIET).fit(Reduced(tiny_bert), data)


def test_what_a_broken_off_epoch_left_is_forgotten(tiny_bert: str, data: Any) -> None:
    class BreaksOff(BertClassifier):
        breaks = True

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = super().validation_step(batch, batch_idx)
            if self.breaks:
                raise ZeroDivisionError
            return outputs

    model, recorder = BreaksOff(tiny_bert), RowRecorder()
    trainer = Trainer(max_epochs=1, callbacks=[recorder], **QUIET)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model, data)
    model.breaks = model.head_is_new = False
    [metrics] = trainer.validate(model, data, verbose=False)
    assert len(recorder.rows["val"]["labels"]) == 20
    assert metrics["val/loss"] == pytest.approx(recorder.rows["val"]["loss"].mean().item())


def test_evaluation_needs_no_recorder(best: Path) -> None:
    model = BertClassifier.load_from_checkpoint(best)
    data = TextClassificationDataModule(**torch.load(best)["datamodule_hyper_parameters"])
    results = evaluate(Trainer(**QUIET), model, data, "test", None, None)
    wanted = json.loads((best.parents[1] / "metrics.json").read_text())["test"]
    assert results["test/acc"] == pytest.approx(wanted["acc"])


def test_metrics_begin_anew_with_another_trainer(tiny_bert: str, data: Any) -> None:
    class StopsWithin(BertClassifier):
        breaks = True

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = super().training_step(batch, batch_idx)
            if self.breaks:
                self.train_metrics.update(preds=torch.zeros(99).long(), target=torch.ones(99).long())
                raise ZeroDivisionError
            return outputs

    model = StopsWithin(tiny_bert)
    with pytest.raises(ZeroDivisionError):
        Trainer(max_epochs=1, **QUIET).fit(model, data)
    model.breaks = False
    trainer = Trainer(max_epochs=1, callbacks=[recorder := RowRecorder()], **QUIET)
    trainer.fit(model, data)
    rows = recorder.rows["train"]
    accuracy = (rows["preds"] == rows["labels"]).float().mean()
    assert trainer.callback_metrics["train/acc"].item() == pytest.approx(accuracy.item())


class Workers(RottenTomatoesDataModule):  # its old name, which still works
    def __init__(self, batch_size: int = 1, **kwargs: Any) -> None:
        super().__init__(batch_size=batch_size * 4, **kwargs)


def test_what_a_subclass_of_the_data_module_passes_on_counts(tiny_bert: str, reviews: Path) -> None:
    data = Workers(batch_size=2, dataset=str(reviews), tokenizer=tiny_bert, train_rows=32)
    data.padding = "max_length"
    data.prepare_data()
    data.setup("fit")
    assert [batch["input_ids"].shape for batch in data.train_dataloader()] == [(8, 32)] * 4


class Frozen(BertClassifier):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False


def test_layers_can_be_frozen_in_init(tiny_bert: str, data: Any) -> None:
    model = Frozen(pretrained=tiny_bert, learning_rate=0.01)
    before = weights_of(model)
    Trainer(max_epochs=1, **QUIET).fit(model, data)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.classifier.weight", "model.classifier.bias"}


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*will be overridden by", "ignore:No seed")
def test_a_lightning_cli_of_ones_own_with_an_optimizer(tiny_bert: str, reviews: Path) -> None:
    words = ["fit", f"--model.pretrained={tiny_bert}", f"--data.dataset={reviews}", f"--data.tokenizer={tiny_bert}"]
    words += ["--optimizer=torch.optim.SGD", "--optimizer.lr=0.01", "--trainer.max_epochs=1", "--data.batch_size=8"]
    words += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    cli = LightningCLI(BertClassifier, TextClassificationDataModule, args=words, save_config_callback=None)
    assert type(cli.trainer.optimizers[0]) is torch.optim.SGD
    assert cli.trainer.global_step == 5
    [path] = Path().rglob("*.ckpt")
    loaded = BertClassifier.load_from_checkpoint(path, weights_only=True)
    assert torch.equal(loaded.model.classifier.weight, cli.model.model.classifier.weight)


SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


MODELS: dict[str, Any] = {
    "deberta": lambda **common: DebertaForMaskedLM(DebertaConfig(**SIZES, **common)),
    "data2vec": lambda **common: Data2VecTextForMaskedLM(Data2VecTextConfig(**SIZES, **common)),
    "longformer": lambda **common: LongformerForMaskedLM(LongformerConfig(**SIZES, **common, attention_window=8)),
    "funnel": lambda **common: FunnelForMaskedLM(
        FunnelConfig(**common, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=16, num_decoder_layers=1)
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_other_encoders_work_or_say_the_way_out(tiny_bert: str, reviews: Path, name: str, precision: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    positions = 34 if name == "longformer" else 32
    MODELS[name](vocab_size=len(tokenizer), pad_token_id=0, max_position_embeddings=positions).save_pretrained(name)
    tokenizer.model_max_length = 10_000
    tokenizer.save_pretrained(name)
    with (reviews / "train.csv").open("a") as file:
        file.write("fun " * 300 + ",pos\n")
    data = TextClassificationDataModule(str(reviews), f"./{name}", batch_size=8)
    trainer = Trainer(max_epochs=1, precision=precision, limit_val_batches=1, **QUIET)  # type: ignore[arg-type]
    try:
        trainer.fit(BertClassifier(f"./{name}"), data)
    except UserError as error:
        message = str(error)
        assert name in message
        assert "use --trainer.precision 32-true" in message or "lower --data.max_length" in message
        assert precision == "bf16-mixed" or "precision" not in message
    else:
        assert trainer.global_step == 6
