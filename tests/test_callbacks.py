"""What an experienced user of Lightning adds to a run works, and has its effect."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import NO_END, QUIET, Capture, Refused, Stopped, events
from equality import equal_runs, same
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from models import weights_of
from processes import run

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.callbacks.cuda_graphs import CudaGraphs
from lit_bert.cli import main
from lit_bert.modeling.checkpoint import Checkpoint, read_safely

FIND = ["--trainer.callbacks+=LearningRateFinder", "--trainer.callbacks.num_training_steps=15"]
FIND += ["--trainer.callbacks.min_lr=1e-5", "--data.batch_size=2"]


@pytest.fixture
def parts(still_bert: str, reviews: Path) -> tuple[BertClassifier, TextClassificationDataModule]:
    data = TextClassificationDataModule(str(reviews), still_bert, batch_size=8)
    return BertClassifier(still_bert, learning_rate=0.003), data


class Recorder(Callback):
    """Keeps the learning rate of each step, and the weights at the start of each epoch and at the end."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.weights.append(weights_of(pl_module))


def test_the_learning_rate_that_a_tuner_finds_is_the_one_that_trains(parts: Any) -> None:
    model, data = parts
    data.batch_size = 2  # 20 steps
    found = Tuner(Trainer(max_epochs=1, **QUIET)).lr_find(model, data, num_training=15, min_lr=1e-5)
    assert model.learning_rate == found.suggestion()
    model.learning_rate = 0.003
    recorder = Recorder()
    finder = LearningRateFinder(num_training_steps=15, min_lr=1e-5)
    trainer = Trainer(max_epochs=1, callbacks=[finder, recorder], **QUIET)
    before = weights_of(model)
    trainer.fit(model, data)
    assert model.learning_rate == finder.optimal_lr.suggestion() != 0.003
    same(recorder.weights[0], before)  # the search leaves no trace
    assert recorder.rates == pytest.approx([model.learning_rate * (20 - step) / 20 for step in range(20)])


def test_the_learning_rate_found_is_told_and_saved_and_not_sought_again(recipe: str, capsys: Capture) -> None:
    cli = main(["fit", "--config", recipe, *FIND, "--trainer.max_epochs=1", *NO_END])
    rate = cli.model.learning_rate
    assert rate != 0.003
    assert f"tuned    --model.learning_rate {rate:g}\n" in capsys.readouterr().out
    assert yaml.safe_load((cli.run_dir / "config.yaml").read_text())["model"]["learning_rate"] == rate
    again = main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"])
    assert again.model.learning_rate == rate
    assert again.trainer.global_step == 40


def test_the_batch_size_found_is_told_and_saved_and_the_schedule_fits_it(recipe: str, capsys: Capture) -> None:
    tuner = ["--trainer.callbacks+=BatchSizeFinder", "--trainer.callbacks.steps_per_trial=1"]
    tuner += ["--trainer.callbacks.max_trials=2", "--trainer.callbacks.init_val=5"]
    cli = main(["fit", "--config", recipe, *tuner, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", *NO_END])
    assert cli.datamodule.batch_size == 10
    assert "tuned    --data.batch_size 10\n" in capsys.readouterr().out
    assert yaml.safe_load((cli.run_dir / "config.yaml").read_text())["data"]["batch_size"] == 10
    assert events(cli.run_dir)["train/lr/pg1"] == pytest.approx([0.003 * (12 - step) / 12 for step in range(12)])
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == 0


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_stochastic_weight_averaging_averages(parts: Any) -> None:
    model, data = parts
    recorder = Recorder()
    averaging = StochasticWeightAveraging(swa_lrs=0.001, swa_epoch_start=2)
    Trainer(max_epochs=4, callbacks=[averaging, recorder], **QUIET).fit(model, data)
    taken = recorder.weights[1:]  # at the start of the epochs from the second on
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), sum(item[name] for item in taken) / 3, msg=name)
    assert not torch.equal(taken[0]["model.classifier.weight"], taken[1]["model.classifier.weight"])


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_after_stochastic_weight_averaging_the_average_is_evaluated(recipe: str, capsys: Capture) -> None:
    words = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.001"]
    cli = main(["fit", "--config", recipe, *words, "--trainer.max_epochs=4"])
    metrics = json.loads((cli.run_dir / "metrics.json").read_text())
    data = cli.datamodule
    [expected] = Trainer(**QUIET).validate(cli.model, data, verbose=False)
    assert metrics["val"]["loss"] == pytest.approx(expected["val/loss"])
    assert metrics["checkpoint"] is None
    assert "best     the average of weights is in no checkpoint of an epoch\n" in capsys.readouterr().out


EMA = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]


def test_a_run_with_an_average_of_weights_has_the_same_figure_everywhere_and_goes_on(recipe: str) -> None:
    words = ["fit", "--config", recipe, *EMA, "--trainer.log_every_n_steps=1", "--model.warmup_ratio=1.0"]
    words.append("--export_after_fit=false")
    whole = main([*words, "--trainer.default_root_dir=whole"])
    other = main([*words, "--trainer.callbacks.use_buffers=false"])
    equal_runs(whole.run_dir, other.run_dir)  # whatever Lightning does with buffers
    metrics = json.loads((whole.run_dir / "metrics.json").read_text())
    best = whole.run_dir / metrics["checkpoint"]
    again = main(["validate", f"--ckpt_path={best}"])
    assert again.results["val"]["loss"] == metrics["val"]["loss"]
    assert pytest.approx(metrics["val"]["loss"], rel=1e-6) in events(whole.run_dir)["val/loss"]
    averaged, current = (read_safely(best)[name] for name in ("state_dict", "current_model_state"))
    assert not torch.equal(averaged["model.classifier.weight"], current["model.classifier.weight"])
    for cli in (whole, other):
        main(["fit", f"--ckpt_path={cli.run_dir}/checkpoints/last.ckpt", "--trainer.max_epochs=3"])
    equal_runs(whole.run_dir, other.run_dir)


def test_ema_callback_of_ones_own_trainer_averages(parts: Any) -> None:
    model, data = parts
    recorder = Recorder()
    averaging = EMAWeightAveraging(decay=0.5, update_starting_at_step=0)
    Trainer(max_epochs=2, callbacks=[averaging, recorder], **QUIET).fit(model, data)
    assert model.model.bert.embeddings.position_ids.tolist() == [list(range(32))]
    assert not torch.equal(model.model.classifier.weight, recorder.weights[1]["model.classifier.weight"])


def test_backbone_finetuning_freezes_and_unfreezes_the_encoder(parts: Any) -> None:
    model, data = parts
    recorder = Recorder()
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=1, lambda_func=lambda epoch: 1.5)
    Trainer(max_epochs=3, callbacks=[finetuning, recorder], **QUIET).fit(model, data)
    start, second, third = recorder.weights
    learned = [name for name in start if not torch.equal(start[name], second[name])]
    assert learned == ["model.classifier.weight", "model.classifier.bias"]
    assert len([name for name in start if "bert" in name and not torch.equal(second[name], third[name])]) > 20


def test_pruning_prunes(parts: Any) -> None:
    model, data = parts
    linear = model.model.bert.encoder.layer[0].intermediate.dense
    pruning = ModelPruning("l1_unstructured", parameters_to_prune=[(linear, "weight")], amount=0.5)
    Trainer(max_epochs=1, callbacks=[pruning], **QUIET).fit(model, data)
    assert (linear.weight == 0).float().mean() == 0.5


@pytest.mark.parametrize(
    "words",
    [["--trainer.val_check_interval=0.4"], ["--checkpoint.every_n_train_steps=1", "--checkpoint.monitor=null"]],
    ids=["within epochs", "by steps"],
)
def test_all_checkpoints_are_kept(recipe: str, words: list[str]) -> None:
    cli = main(["fit", "--config", recipe, "--checkpoint.save_top_k=-1", *words, "--trainer.max_epochs=1", *NO_END])
    steps = [Checkpoint.read(path).global_step for path in cli.run_dir.glob("checkpoints/epoch=*.ckpt")]
    assert sorted(steps) == ([2, 4] if "--trainer" in words[0] else [1, 2, 3, 4, 5])


def test_what_was_asked_for_is_printed(recipe: str, tmp_path: Path) -> None:
    """In a process of its own, for libraries that print when they are imported or exit."""
    words = ["--trainer.profiler=simple", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    run(["fit", "--config", recipe, *words, "--trainer.callbacks.verbose=true", *NO_END], tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert "FIT Profiler Report" in said
    assert "run_training_batch" in said
    assert "Metric val/loss improved. New best score" in said
    assert "GPU available" not in said


def test_early_stopping_by_a_metric_that_there_is_not(recipe: str, refused: Refused) -> None:
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    said = refused(["fit", "--config", recipe, *words])
    assert "metric `val_loss`" in said
    assert len(said.splitlines()) < 14


def test_barebones(recipe: str) -> None:
    cli = main(["fit", "--config", recipe, "--trainer.barebones=true", "--trainer.max_epochs=1"])
    assert cli.trainer.global_step == 5
    assert cli.trainer.loggers == []
    assert not list(Path().glob("runs/*/checkpoints"))


def test_without_checkpoints_the_weights_at_the_end_are_evaluated(recipe: str, capsys: Capture) -> None:
    words = ["--trainer.enable_checkpointing=false", "--trainer.callbacks+=TQDMProgressBar", "--trainer.max_epochs=1"]
    cli = main(["fit", "--config", recipe, *words])
    assert type(cli.trainer.progress_bar_callback).__name__ == "TQDMProgressBar"  # takes the place of ours
    assert not list(cli.run_dir.rglob("*.ckpt"))
    assert set(cli.results) >= {"val", "test"}
    assert "best     there is no best checkpoint: --trainer.enable_checkpointing is false\n" in capsys.readouterr().out


def test_other_loggers_and_another_model_checkpoint(recipe: str, capsys: Capture) -> None:
    """The look line names where the events are, and what is best is decided by the run's own checkpoints."""
    words = ["--trainer.logger+=TensorBoardLogger", "--trainer.logger.save_dir=elsewhere", "--trainer.logger.name=mine"]
    words += ["--trainer.logger+=CSVLogger", "--trainer.logger.save_dir=logs", "--trainer.log_every_n_steps=1"]
    words += ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_epochs=10"]
    cli = main(["fit", "--config", recipe, *words, "--export_after_fit=false"])
    assert "look     tensorboard --logdir elsewhere/mine\n" in capsys.readouterr().out
    assert list(Path("elsewhere/mine").rglob("events.out*"))
    [table] = Path("logs").rglob("metrics.csv")
    header, *rows = table.read_text().splitlines()
    assert {"train/loss", "val/acc", "train/lr/pg1"} <= set(header.split(","))
    assert len(rows) >= 10
    assert cli.results["checkpoint"].startswith("checkpoints/epoch=")


@pytest.mark.filterwarnings("ignore:`ModelCheckpoint.monitor='val/acc'.` could not find")
def test_a_run_that_ends_before_a_validation_says_why_nothing_is_exported(recipe: str, capsys: Capture) -> None:
    cli = main(["fit", "--config", recipe, "--trainer.max_steps=2"])
    assert not (cli.run_dir / "export").exists()
    assert "best     there is no best checkpoint: training ended before a validation\n" in capsys.readouterr().out


def test_another_optimizer_has_decay_groups_and_the_linear_schedule(recipe: str) -> None:
    words = ["--optimizer=torch.optim.SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0.9"]
    words += ["--optimizer.weight_decay=0.2", "--trainer.log_every_n_steps=1"]
    cli = main(["fit", "--config", recipe, *words, *NO_END])
    [optimizer] = cli.trainer.optimizers
    assert type(optimizer) is torch.optim.SGD
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.9]
    assert events(cli.run_dir)["train/lr/pg1"] == pytest.approx([0.1 * (10 - step) / 10 for step in range(10)])
    again = main(["fit", "--ckpt_path=last", "--trainer.max_epochs=3"])
    assert type(again.trainer.optimizers[0]) is torch.optim.SGD
    assert again.trainer.global_step == 15


@pytest.mark.parametrize("wanted", [True, False])
def test_the_option_for_cuda_graphs_adds_their_callback(recipe: str, wanted: bool) -> None:
    words = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--checkpoint.monitor=null"]
    cli = main(["fit", "--config", recipe, f"--model.cuda_graphs={str(wanted).lower()}", *words, *NO_END])
    assert any(isinstance(callback, CudaGraphs) for callback in cli.trainer.callbacks) == wanted


@pytest.mark.parametrize(
    ("words", "modes"),
    [
        (["--checkpoint.monitor=val/loss"], ("min", None, None)),
        (["--checkpoint.monitor=val/auroc"], ("max", None, None)),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/acc"], ("max", "max", None)),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"], ("max", "min", None)),
        (["--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val/f1"], ("max", None, "max")),
        (["--checkpoint.monitor=train/own", "--checkpoint.mode=min"], ("min", None, None)),
    ],
)
def test_the_best_is_where_its_metric_has_it(recipe: str, words: list[str], modes: tuple[str | None, ...]) -> None:
    cli = main(["fit", "--config", recipe, *words, "--trainer.fast_dev_run=true"])
    stopping = next((callback for callback in cli.trainer.callbacks if isinstance(callback, EarlyStopping)), None)
    schedule = cli.trainer.lr_scheduler_configs[0].scheduler
    assert (cli.settings.checkpoint.mode, stopping and stopping.mode, getattr(schedule, "mode", None)) == modes


def test_with_a_time_alone_the_rate_is_constant_and_more_time_is_advised(
    recipe: str, capsys: Capture, stopped: Stopped
) -> None:
    words = ["--trainer.max_epochs=-1", "--trainer.max_time=00:00:00:02", "--trainer.log_every_n_steps=1", *NO_END]
    cli = main(["fit", "--config", recipe, *words])
    line = "rate     the learning rate is constant, because --trainer.max_time tells no last step"
    assert line in capsys.readouterr().out
    assert set(events(cli.run_dir)["train/lr/pg1"]) == {float(np.float32(0.003))}
    said = stopped(["fit", f"--ckpt_path={cli.run_dir}/checkpoints/last.ckpt"])
    assert "to train on, raise --trainer.max_time above 00:00:00:02\n" in said


def test_another_schedule_is_stepped_with_the_optimizer(recipe: str) -> None:
    words = ["--lr_scheduler=torch.optim.lr_scheduler.StepLR", "--lr_scheduler.step_size=2", "--lr_scheduler.gamma=0.5"]
    cli = main(["fit", "--config", recipe, *words, "--trainer.log_every_n_steps=1", *NO_END])
    assert events(cli.run_dir)["train/lr/pg1"] == pytest.approx([0.003 * 0.5 ** (step // 2) for step in range(10)])


def test_a_checkpoint_of_weights_alone_is_no_place_to_go_on_from(recipe: str, refused: Refused) -> None:
    cli = main(["fit", "--config", recipe, "--checkpoint.save_weights_only=true", "--trainer.max_epochs=1", *NO_END])
    [best] = cli.run_dir.glob("checkpoints/epoch=*.ckpt")
    assert main(["test", f"--ckpt_path={best}"]).results["test"]["rows"] == 30
    assert "only the model" in refused(["fit", f"--ckpt_path={best}", "--trainer.max_epochs=3"])
