"""The scripts in examples/ run as their docstrings say, and do what they are there to show."""

import json
import runpy
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, NO_END, Capture, Patch, events
from lightning.pytorch import Trainer
from models import piped
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForSequenceClassification

from lit_bert.callbacks.row_recorder import RowRecorder
from lit_bert.cli import main

Run = Callable[..., dict[str, Any]]
EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _quiet_trainer(monkeypatch: Patch) -> None:
    """A Trainer without bar and summary, on the CPU, in scripts that make their own."""
    for name, value in (("ENABLE_PROGRESS_BAR", "False"), ("ENABLE_MODEL_SUMMARY", "False"), ("ACCELERATOR", "cpu")):
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)
    monkeypatch.setenv("PL_TRAINER_LOG_EVERY_N_STEPS", "1")


@pytest.fixture
def fitted(monkeypatch: Patch) -> list[Any]:
    """The arguments of `Trainer.fit` of a script, the Trainer first, which has a `RowRecorder` as its last callback."""
    calls: list[Any] = []
    fit = Trainer.fit

    def record(self: Trainer, *args: Any, **kwargs: Any) -> None:
        self.callbacks.append(RowRecorder())
        fit(self, *args, **kwargs)
        calls.extend([self, *args])

    monkeypatch.setattr(Trainer, "fit", record)
    return calls


@pytest.fixture
def run(monkeypatch: Patch) -> Run:
    """Runs a script as `python examples/NAME WORDS`, and returns what it defines."""

    def run_script(name: str, *words: str) -> dict[str, Any]:
        [path] = [path for path in EXAMPLES if path.name == name]
        monkeypatch.setattr(sys, "argv", [str(path), *words])
        return runpy.run_path(str(path), run_name="__main__")

    return run_script


@pytest.fixture
def train(run: Run, tiny_bert: str, reviews: Path) -> Run:
    """Runs a script that trains, on the reviews with the tiny BERT."""
    return lambda name, *words: run(name, "--dataset", str(reviews), "--pretrained", tiny_bert, *words)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert f"\npython examples/{path.name}\n" in text.split('"""')[1]


def test_a_loss_of_ones_own_trains_and_is_an_option(run: Run, recipe: str) -> None:
    fit = ["fit", "--config", recipe, "--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"]
    fit += NO_END
    runs = {}
    for smoothing in ("0.0", "0.5"):
        run("own_loss.py", *fit, f"--model.smoothing={smoothing}", f"--trainer.default_root_dir={smoothing}")
        [runs[smoothing]] = Path(smoothing).iterdir()
    plain = main([*fit, "--trainer.default_root_dir=plain"]).run_dir
    assert events(runs["0.0"])["train/loss"] == events(plain)["train/loss"]
    assert events(runs["0.5"])["val/loss"] != events(plain)["val/loss"]
    assert "smoothing: 0.5" in (runs["0.5"] / "config.yaml").read_text()


def test_the_smoothed_loss(run: Run, tiny_bert: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr("lit_bert.cli.main", lambda *args, **kwargs: None)
    model = run("own_loss.py")["SmoothedBertClassifier"](0.2, pretrained=tiny_bert)
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 0])
    targets = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    losses = model.compute_loss(logits, {"labels": labels})
    torch.testing.assert_close(losses, -(targets * F.log_softmax(logits, 1)).sum(1))
    assert model.hparams["smoothing"] == 0.2


def test_a_callback_of_ones_own_prints_the_hardest_sentence(train: Run, fitted: list[Any], capsys: Capture) -> None:
    train("own_callback.py", "--train_rows=33")
    trainer, _, data = fitted
    assert trainer.global_step == 4  # two steps an epoch, of up to 32 rows
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line[:8] for line in lines] == ["epoch 0:", "epoch 1:"]
    rows = trainer.callbacks[-1].rows["val"]
    hardest = rows["loss"].argmax()
    text, label = data.texts("val", rows["index"][hardest][None])[0][0], rows["labels"][hardest]
    assert text in (BAD, GOOD)[label]
    assert lines[1].startswith(f"epoch 1: label {('neg', 'pos')[label]}, prediction ")
    assert lines[1].endswith(f": {text}")


def test_data_of_ones_own_trains_with_the_whole_command_line(run: Run, recipe: str) -> None:
    with closing(sqlite3.connect("a.db")) as database:
        database.execute("CREATE TABLE reviews (body, stars)")
        rows = [(text, stars) for texts, stars in ((GOOD, 5), (BAD, 1)) for text in texts * 4]
        database.executemany("INSERT INTO reviews VALUES (?, ?)", rows)
        database.commit()
    words = ["--data.dataset=a.db", "--data.query=SELECT body AS text, stars AS label FROM reviews"]
    run("own_data.py", "fit", "--config", recipe, *words, "--trainer.max_epochs=1", "--export_after_fit=false")
    [folder] = Path("runs").iterdir()
    splits = json.loads((folder / "metrics.json").read_text())["audit"]["classes"]
    assert splits == {"train": {"1": 16, "5": 16}, "val": {"1": 2, "5": 2}, "test": {"1": 2, "5": 2}}
    assert "dataset: a.db" in (folder / "config.yaml").read_text()
    run("own_data.py", "test", "--ckpt_path=best")
    assert (folder / "metrics-test.json").is_file()


def test_lora_trains_little_and_saves_what_a_pipeline_loads(
    train: Run, tiny_bert: str, fitted: list[Any], capsys: Capture
) -> None:
    train("lora.py", "--rows=32", "--to=merged")
    assert "test/acc" in capsys.readouterr().out
    trainer, _, data = fitted
    assert trainer.global_step == 3 * 2  # epochs, of 32 rows in batches of 16
    trained = sum(p.numel() for group in trainer.optimizers[0].param_groups for p in group["params"])
    adapters = 2 * 8 * (4 * (32 + 32) + 2 * (32 + 64))  # layers, rank, and both sides of six matrices
    assert trained == adapters + (32 * 32 + 32) + (32 * 2 + 2)  # pooler and head as a whole

    before = AutoModel.from_pretrained(tiny_bert).state_dict()
    after = AutoModelForSequenceClassification.from_pretrained("merged").base_model.state_dict()
    assert after.keys() == before.keys()
    changed = [name for name in before if "pooler" not in name and not torch.equal(before[name], after[name])]
    assert len(changed) == 2 * 6
    assert all(name.endswith(".weight") for name in changed)

    rows = trainer.callbacks[-1].rows["test"]
    texts, _ = data.texts("test", rows["index"])
    torch.testing.assert_close(piped("merged", texts), rows["probs"], atol=1e-5, rtol=0)
