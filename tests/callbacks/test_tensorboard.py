import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import QUIET, accumulated
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.util import tensor_util
from torch import Tensor

from lit_bert import TextClassificationDataModule
from lit_bert.callbacks import tensorboard
from lit_bert.cli import main
from lit_bert.modeling.outputs import SplitOutputs

FIGURES = ["ROC", "confusion matrix", "coverage", "precision and recall", "reliability", "slices"]


# --- of a whole run ---------------------------------------------------------------------------------------------------


def test_a_run_fills_the_page(trained: Path) -> None:
    events = accumulated(trained)
    tags = events.Tags()
    assert sorted(tags["images"]) == [f"{split}/{name}" for split in ("test", "val") for name in FIGURES]
    assert set(tags["tensors"]) >= {"val/neg", "val/pos", "test/neg", "test/pos"}
    assert [event.step for event in events.Tensors("val/pos")] == [4, 9, 14, 19]  # after each validation
    for tag in tags["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps)), tag
    final = {f"{split}_{key}" for split in ("val", "test") for key in ("acc", "f1", "ece")}
    assert {f"final/{name}" for name in final} <= set(tags["scalars"])
    assert "epoch" not in tags["scalars"]
    groups = [tag.partition("/")[0] for tag in sorted(tags["scalars"])]
    assert list(dict.fromkeys(groups)) == ["final", "test", "train", "val"]


def test_command_config_and_results_stand_among_the_texts(trained: Path) -> None:
    events = accumulated(trained)
    texts = {
        tag: tensor_util.make_ndarray(events.Tensors(f"{tag}/text_summary")[0].tensor_proto).item().decode()
        for tag in ("command", "config", "results")
    }
    assert "    seed_everything: 1" in texts["config"]
    assert "| test | 30 |" in texts["results"]


def test_training_and_validation_stand_on_one_chart(trained: Path) -> None:
    events = accumulated(trained)
    [event] = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(event.tensor_proto).item())
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["loss"] == ["train/loss", "val/loss"]
    assert charts["accuracy"] == ["train/acc", "val/acc"]
    assert charts["sentences per second"] == ["train/samples_per_sec"]
    assert {tag for tags in charts.values() for tag in tags} <= set(events.Tags()["scalars"])


def test_errors_are_listed_the_most_confident_first_and_with_their_text(trained: Path) -> None:
    lines = table(trained)
    assert lines
    scores = [float(line[3]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    for _, truth, pred, _, sentence in lines:
        assert truth != pred
        assert re.fullmatch(r"(\w|\s|&#\d+;|<br>)+", sentence)


def test_without_tensorboard_a_run_ends_all_the_same(recipe: str) -> None:
    cli = main(["fit", "--config", recipe, "--trainer.logger=false"])
    assert (cli.run_dir / "export").is_dir()
    assert not list(cli.run_dir.glob("events*"))


@pytest.mark.usefixtures("pixels")
def test_a_resumed_run_is_laid_out_once(ended: Path) -> None:
    main(["fit", "--ckpt_path=last", "--trainer.max_epochs=5"])
    events = accumulated(ended)
    assert len(events.Tensors(metadata.CONFIG_SUMMARY_TAG)) == 1
    assert [event.step for event in events.Images("val/ROC")] == [25]
    assert sorted(path.name for path in ended.glob("export*")) == ["export", "export-2"]


# --- of its parts -----------------------------------------------------------------------------------------------------

OUTPUTS: SplitOutputs = {
    "index": torch.tensor([3, 5, 7, 9]),
    "probs": torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.05, 0.05, 0.9]]),
    "preds": torch.tensor([0, 1, 0, 2]),
    "labels": torch.tensor([1, 2, 0, 0]),
}
NAMES = ["a", "b", "c"]


class Data(TextClassificationDataModule):
    def __init__(self) -> None: ...

    def texts(self, split: str, index: Tensor) -> tuple[list[str], list[int]]:
        return [f"{split} {row}" for row in index.tolist()], [0] * len(index)


def table(run: Path) -> list[list[str]]:
    [event, *_] = accumulated(run).Tensors("val/most confident errors/text_summary")
    text = tensor_util.make_ndarray(event.tensor_proto).item().decode()
    return [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]


@pytest.fixture
def board() -> TensorBoardLogger:
    return TensorBoardLogger("events", name="", version="")


def standing_in(*loggers: Any) -> Trainer:
    return cast(Trainer, SimpleNamespace(loggers=list(loggers), is_global_zero=True))


def test_the_most_confident_errors_come_first_and_only_they(board: TensorBoardLogger) -> None:
    tensorboard.log_errors(standing_in(board), "val", OUTPUTS, Data(), NAMES, 3)
    board.finalize("success")
    assert table(Path("events")) == [
        ["9", "a", "c", "0.900", "val 9"],
        ["3", "b", "a", "0.800", "val 3"],
        ["5", "c", "b", "0.700", "val 5"],
    ]
    assert {"val/a", "val/b", "val/c"} <= set(accumulated(Path("events")).Tags()["tensors"])


def test_hyperparameters_stand_beside_final_metrics(board: TensorBoardLogger) -> None:
    results = {"test": {"rows": 4, "acc": 0.5, "f1": 0.25, "balanced_acc": 0.5, "ece": 0.125, "loss": 1.5}}
    tensorboard.log_final(standing_in(board), results, {"rate": 0.5, "none": None, "list": [1]}, 3)
    assert [event.value for event in accumulated(Path("events")).Scalars("final/test_ece")] == [0.125]


def test_another_module_is_left_alone(board: TensorBoardLogger) -> None:
    few = {"limit_train_batches": 2, "limit_val_batches": 2, "logger": board}
    Trainer(max_epochs=1, callbacks=[tensorboard.TensorBoardCallback()], **{**QUIET, **few}).fit(BoringModel())
    assert accumulated(Path("events")).Tags()["tensors"] == [metadata.CONFIG_SUMMARY_TAG]
