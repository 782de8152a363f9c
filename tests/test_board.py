import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.util import tensor_util
from torch.utils.tensorboard.writer import SummaryWriter

from lit_bert import board, figures
from lit_bert.cli import main

FIGURES = ["ROC", "confusion matrix", "coverage", "precision and recall", "reliability", "slices"]


def accumulated(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_a_run_fills_the_page(trained: Path) -> None:
    found = accumulated(trained)
    tags = found.Tags()
    assert sorted(tags["images"]) == [f"{split}/{name}" for split in ("test", "val") for name in FIGURES]
    assert set(tags["tensors"]) >= {"val/neg", "val/pos", "test/neg", "test/pos"}
    assert [event.step for event in found.Tensors("val/pos")] == [4, 9, 14, 19]  # after each validation
    for tag in tags["scalars"]:
        steps = [event.step for event in found.Scalars(tag)]
        assert len(steps) == len(set(steps)), tag
    assert {f"final/{split}_{key}" for split in ("val", "test") for key in ("acc", "f1", "ece")} <= set(tags["scalars"])


def test_training_and_validation_stand_on_one_chart(trained: Path) -> None:
    found = accumulated(trained)
    [event] = found.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(tensor_util.make_ndarray(event.tensor_proto).item())
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["loss"] == ["train/loss", "val/loss"]
    assert charts["accuracy"] == ["train/acc", "val/acc"]
    assert {tag for tags in charts.values() for tag in tags} <= set(found.Tags()["scalars"])


def test_errors_are_listed_the_most_confident_first_and_with_their_text(trained: Path) -> None:
    events = accumulated(trained).Tensors("val/most confident errors/text_summary")
    table = tensor_util.make_ndarray(events[0].tensor_proto).item().decode()
    lines = table.splitlines()[2:]
    assert lines
    scores = [float(line.split(" | ")[3]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    for line in lines:
        _, truth, pred, _, sentence = line.strip("| ").split(" | ")
        assert truth != pred
        assert re.fullmatch(r"(\w|\s|&#\d+;|<br>)+", sentence)


def test_text_is_shown_as_it_is() -> None:
    text = 'a | b\n<script>alert("x")</script> *no* `code` [x](y) Zoë'
    shown = board.escaped(text)
    assert not set(shown) & set('|<>*`[]()\n"')
    references = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), shown)
    assert references == text.replace("\n", " ")


def test_the_projector_gets_a_vector_and_a_line_for_each_row(trained: Path) -> None:
    [vectors] = trained.glob("*/CLS/tensors.tsv")
    [lines] = trained.glob("*/CLS/metadata.tsv")
    assert len(vectors.read_text().splitlines()) == 20
    header, *rows = lines.read_text().splitlines()
    assert header.split("\t") == ["class", "prediction", "outcome", "sentence"]
    assert len(rows) == 20
    for row in rows:
        truth, pred, outcome, _ = row.split("\t")
        assert (outcome == "right") is (truth == pred)


def test_without_tensorboard_a_run_ends_all_the_same(recipe: str) -> None:
    cli = main(["fit", "--config", recipe, "--trainer.logger=false", "--projector=true"])
    assert (cli.run_dir / "export").is_dir()
    assert not list(cli.run_dir.glob("events*"))


def test_a_resumed_run_is_laid_out_once(recipe: str) -> None:
    run = main(["fit", "--config", recipe]).run_dir
    main(["fit", "--ckpt_path=last", "--trainer.max_epochs=3"])
    found = accumulated(run)
    assert len(found.Tensors(metadata.CONFIG_SUMMARY_TAG)) == 1
    assert [event.step for event in found.Images("val/ROC")] == [15]
    assert sorted(path.name for path in run.glob("export*")) == ["export", "export-2"]


@pytest.fixture
def three() -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of 3 classes and labels, 4 rows of which the third is wrong."""
    probs = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
    return probs, torch.tensor([0, 1, 2, 2])


def test_figures_show_what_the_rows_say(three: tuple[torch.Tensor, torch.Tensor]) -> None:
    probs, labels = three
    names = ["bad", "good", "so-so"]
    matrix = figures.confusion_matrix(probs.argmax(dim=1), labels, names, "t").axes[0]
    assert [text.get_text() for text in matrix.texts] == ["1", "0", "0", "0", "1", "0", "1", "0", "1"]
    covered = figures.coverage(probs, labels, "t").axes[0].lines[0]
    assert covered.get_xdata().tolist() == [0.25, 0.5, 0.75, 1]
    assert covered.get_ydata().tolist() == [1, 1, 1, 0.75]
    for curve in (figures.roc(probs, labels, names, "t"), figures.precision_recall(probs, labels, names, "t")):
        assert [text.get_text().partition(":")[0] for text in curve.axes[0].get_legend().get_texts()] == names
    drawn = figures.reliability({"as trained": probs}, labels, "t").axes[0]
    line = drawn.lines[1]
    assert line.get_xdata().tolist() == pytest.approx([0.5, 0.7, 0.8, 0.9])
    assert line.get_ydata().tolist() == [0, 1, 1, 1]
    assert drawn.get_legend().get_texts()[0].get_text() == "as trained: calibration error 0.275"


def test_of_two_classes_one_curve_is_drawn(three: tuple[torch.Tensor, torch.Tensor]) -> None:
    probs, labels = three
    drawn = figures.roc(probs[:, :2], labels.clamp_max(1), ["neg", "pos"], "t").axes[0].get_legend().get_texts()
    assert [text.get_text().partition(":")[0] for text in drawn] == ["pos"]


def test_a_name_is_no_formula(three: tuple[torch.Tensor, torch.Tensor]) -> None:
    probs, labels = three
    for drawn in (
        figures.roc(probs, labels, ["$a_$", "b", "c"], "t"),
        figures.confusion_matrix(labels, labels, ["$a_$", "b", "c"], "t"),
    ):
        drawn.canvas.draw()


def test_the_projector_takes_what_was_validated_and_predicted(recipe: str) -> None:
    limits = ["--trainer.limit_val_batches=2", "--data.eval_batch_size=8", "--projector=true"]
    run = main(["fit", "--config", recipe, *limits]).run_dir
    [vectors] = run.glob("*/CLS/tensors.tsv")
    assert len(vectors.read_text().splitlines()) == 16


def test_the_most_confident_errors_come_first_and_only_they(three: tuple[torch.Tensor, torch.Tensor]) -> None:
    probs, labels = three
    rows = {
        "index": torch.tensor([3, 5, 7, 9]),
        "probs": probs,
        "pred": probs.argmax(dim=1),
        "labels": (labels + 1) % 3,
    }
    data = SimpleNamespace(texts=lambda split, index: ([f"{split} {row}" for row in index.tolist()], []))
    to = SummaryWriter("events")  # type: ignore[no-untyped-call]
    board.write_errors(to, "val", rows, data, ["a", "b", "c"], 3)
    to.close()  # type: ignore[no-untyped-call]
    [event] = accumulated(Path("events")).Tensors("val/most confident errors/text_summary")
    table = tensor_util.make_ndarray(event.tensor_proto).item().decode()
    assert [line.strip("| ").split(" | ") for line in table.splitlines()[2:]] == [
        ["9", "a", "c", "0.900", "val 9"],
        ["3", "b", "a", "0.800", "val 3"],
        ["5", "c", "b", "0.700", "val 5"],
    ]
