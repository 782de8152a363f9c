"""The scripts in examples/ run as their docstrings say, and do what they are there to show."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, events
from lightning.pytorch import Trainer
from torch.nn import functional as F

from lit_bert.cli import main

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _quiet_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Trainer without bar and summary, on the CPU, in scripts that make their own."""
    for name, value in (("ENABLE_PROGRESS_BAR", "False"), ("ENABLE_MODEL_SUMMARY", "False"), ("ACCELERATOR", "cpu")):
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)
    monkeypatch.setenv("PL_TRAINER_LOG_EVERY_N_STEPS", "1")


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of `Trainer.fit` of a script, the Trainer first."""
    calls: list[Any] = []
    fit = Trainer.fit

    def record(self: Trainer, *args: Any, **kwargs: Any) -> None:
        fit(self, *args, **kwargs)
        calls.extend([self, *args])

    monkeypatch.setattr(Trainer, "fit", record)
    return calls


def run(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run a script as `python examples/NAME WORDS`, and return what it defines."""
    [path] = [path for path in EXAMPLES if path.name == name]
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    return runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert f"\npython examples/{path.name}\n" in text.split('"""')[1]


def test_a_loss_of_ones_own_trains_and_is_an_option(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {}
    for smoothing in ("0.0", "0.5"):
        words = ["fit", "--config", recipe, f"--model.smoothing={smoothing}", f"--trainer.default_root_dir={smoothing}"]
        run("own_loss.py", words, monkeypatch)
        [runs[smoothing]] = Path(smoothing).iterdir()
    main(["fit", "--config", recipe, "--trainer.default_root_dir=plain"])
    [plain] = Path("plain").iterdir()
    assert events(runs["0.0"])["train/loss"] == events(plain)["train/loss"]
    assert events(runs["0.5"])["val/loss"] != events(plain)["val/loss"]
    assert "smoothing: 0.5" in (runs["0.5"] / "config.yaml").read_text()


def test_the_smoothed_loss(tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_bert.cli.main", lambda *args, **kwargs: None)
    model = run("own_loss.py", [], monkeypatch)["SmoothedBertClassifier"](0.2, pretrained=tiny_bert)
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 0])
    targets = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    torch.testing.assert_close(model.compute_loss(logits, labels), -(targets * F.log_softmax(logits, 1)).sum(1))
    assert model.hparams["smoothing"] == 0.2


def test_a_callback_of_ones_own_prints_the_hardest_sentence(
    tiny_bert: str,
    reviews: Path,
    fitted: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--dataset", str(reviews), "--pretrained", tiny_bert, "--train_rows=33"]
    run("own_callback.py", words, monkeypatch)
    trainer, model, data = fitted
    assert trainer.global_step == 4  # two steps an epoch, of up to 32 rows
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line[:8] for line in lines] == ["epoch 0:", "epoch 1:"]
    outputs = model.epoch_outputs["val"]
    hardest = outputs["loss"].argmax()
    text, label = data.texts("val", outputs["index"][hardest][None])[0][0], outputs["labels"][hardest]
    assert text in (BAD, GOOD)[label]
    assert lines[1].startswith(f"epoch 1: label {('neg', 'pos')[label]}, prediction ")
    assert lines[1].endswith(f": {text}")


def test_data_of_ones_own_trains(
    tiny_bert: str, reviews: Path, fitted: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("own_data.py", ["--dataset", str(reviews), "--pretrained", tiny_bert], monkeypatch)
    trainer, model, train, val = fitted
    assert trainer.global_step == len(train) == 3  # 40 rows in batches of 16
    [batch, *_] = val
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert model.class_names == ["neg", "pos"]
    assert len(model.epoch_outputs["train"]["labels"]) == 40
    assert len(model.epoch_outputs["val"]["labels"]) == 20
    assert 0 <= trainer.callback_metrics["val/acc"] <= 1
