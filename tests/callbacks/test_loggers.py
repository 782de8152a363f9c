import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from lit_bert.callbacks.loggers import escape, log_figure, log_table, takes_figures, to_markdown


class Recorder(Logger):
    """A logger that records calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    @property
    def name(self) -> str:
        return "recorder"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


class LikeWandb(Recorder):
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.calls.append((key, images, step))

    def log_table(self, key: str, columns: Any, data: Any, step: int | None = None) -> None:
        self.calls.append((key, columns, data, step))


class LikeMlflow(Recorder):
    run_id = "r1"

    @property
    def experiment(self) -> Any:
        return SimpleNamespace(
            log_figure=lambda *args: self.calls.append(args), log_text=lambda *args: self.calls.append(args)
        )


class LikeComet(Recorder):
    """Its figures have other arguments, and it has no run_id."""

    experiment = SimpleNamespace(log_figure=None, log_text=None)


def trainer(*loggers: Any, rank: int = 0) -> Trainer:
    return cast(Trainer, SimpleNamespace(loggers=loggers, is_global_zero=rank == 0))


@pytest.fixture
def figure() -> Figure:
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots()
    return figure


ROWS = [["7", "a|b", "0.900"], ["8", "c", "1"]]


def test_each_logger_gets_what_it_takes(figure: Figure) -> None:
    wandb, mlflow, comet = LikeWandb(), LikeMlflow(), LikeComet()
    board, plain = TensorBoardLogger("tb", name="", version=""), CSVLogger("csv")
    everyone = trainer(plain, board, wandb, mlflow, comet, Recorder(), DummyLogger())
    log_figure(everyone, "val/ROC", figure, 5)
    log_table(everyone, "val/errors", ["row", "truth", "p"], ROWS, 5)
    board.finalize("success")

    [(key, [image], step), table] = wandb.calls
    assert (key, image.size, image.mode, step) == ("val/ROC", (100, 50), "RGB", 5)
    assert table == ("val/errors", ["row", "truth", "p"], ROWS, 5)
    markdown = to_markdown(["row", "truth", "p"], ROWS)
    assert mlflow.calls == [("r1", figure, "val/ROC.png"), ("r1", markdown, "val/errors.md")]
    assert comet.calls == []
    events = EventAccumulator(str(Path("tb"))).Reload()
    assert [event.step for event in events.Images("val/ROC")] == [5]
    [event] = events.Tensors("val/errors/text_summary")
    assert tensor_util.make_ndarray(event.tensor_proto).item().decode() == markdown


def test_only_rank_0_logs(figure: Figure) -> None:
    wandb = LikeWandb()
    log_figure(trainer(wandb, rank=1), "a", figure, 0)
    log_table(trainer(wandb, rank=1), "a", ["b"], [["c"]], 0)
    assert wandb.calls == []


def test_which_loggers_take_figures() -> None:
    assert all(map(takes_figures, (LikeWandb(), LikeMlflow(), TensorBoardLogger("tb"))))
    assert not any(map(takes_figures, (Recorder(), CSVLogger("csv"), LikeComet())))


def test_a_table_shows_text_as_it_is() -> None:
    lines = to_markdown(["row", "truth", "p"], ROWS).splitlines()
    assert lines == [
        "| row | truth | p |",
        "| ---: | --- | ---: |",
        "| 7 | a&#124;b | 0.900 |",
        "| 8 | c | 1 |",
    ]
    assert to_markdown(["s"], [["word " * 40]]).count("<br>") == 2


def test_text_is_shown_as_it_is() -> None:
    text = 'a | b\n<script>alert("x")</script> *no* `code` [x](y) Zoë'
    shown = escape(text)
    assert not set(shown) & set('|<>*`[]()\n"')
    references = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), shown)
    assert references == text.replace("\n", " ")
