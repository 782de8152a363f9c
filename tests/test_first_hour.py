"""What must not mislead a new user in the first hour: commands, files, epochs and names, as they are met."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from conftest import BAD, GOOD, QUIET, Refused
from lightning.pytorch import Trainer
from sklearn.metrics import matthews_corrcoef
from torch import Tensor
from torchmetrics.classification import MulticlassMatthewsCorrCoef

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.callbacks.row_recorder import RowRecorder
from lit_bert.cli import main
from lit_bert.evaluation.summary import print_summary

SHORT = ["--trainer.max_epochs=1", "--test_after_fit=false", "--export_after_fit=false"]


class Doubled(BertClassifier):
    """Has another loss."""

    def compute_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return 2 * super().compute_loss(logits, batch)


def spreadsheet(path: Path, header: str) -> str:
    """Write semicolons and cp1252, as a spreadsheet does."""
    rows = [f"{text} sch\u00f6n;{label},0" for texts, label in ((GOOD, 5), (BAD, 1)) for text in texts * 2]
    path.write_bytes("\r\n".join([header, *rows, ""]).encode("cp1252"))
    return str(path)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_metric_that_updates_its_state_in_place_is_added_in_a_line(tiny_bert: str, reviews: Path) -> None:
    data = TextClassificationDataModule(str(reviews), tiny_bert, batch_size=8)
    model = BertClassifier(tiny_bert, class_names=data.class_names, learning_rate=0.003)
    model.val_metrics.add_metrics({"mcc": MulticlassMatthewsCorrCoef(2, ignore_index=-100)})
    recorder = RowRecorder()
    trainer = Trainer(max_epochs=2, callbacks=[recorder], **QUIET)
    trainer.fit(model, data)
    for _ in range(2):
        rows = recorder.rows["val"]
        expected = matthews_corrcoef(rows["labels"], rows["preds"])
        assert float(trainer.callback_metrics["val/mcc"]) == pytest.approx(expected, abs=1e-6)
        trainer.validate(model, data, verbose=False)


def test_numbers_that_stand_as_decimals_are_read_alike_in_training_and_in_predict(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f'"{text}",{label}' for texts, label in ((GOOD, "5.0"), (BAD, "1.0")) for text in texts * 2]
    (tmp_path / "a.csv").write_text("\n".join(["text,overall", *rows]))
    words = [f"--data.dataset={tmp_path / 'a.csv'}", "--data.label_column=overall"]
    run = main(["fit", "--config", recipe, *words, *SHORT]).run_dir
    assert "classes 1, 5" in capsys.readouterr().out
    main(["predict", f"--ckpt_path={run}/checkpoints/last.ckpt", f"--input={tmp_path / 'a.csv'}"])
    said = capsys.readouterr().err
    assert "on 20 labelled rows" in said
    assert "none of" not in said
    with (run / "predictions-a.csv").open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"1", "5"}


def test_a_checkpoint_of_a_subclass_names_it_and_its_commands_are_those_of_its_script(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scripts/mine.py"])
    cli = main(["fit", "--config", recipe, "--trainer.max_epochs=1"], model_class=Doubled)
    said = capsys.readouterr()
    assert "\ntest     python scripts/mine.py test --ckpt_path runs/" in said.out
    words = ["test", f"--ckpt_path={cli.trainer.checkpoint_callback.best_model_path}"]
    told = "class    checkpoint of Doubled, read as BertClassifier: use the script of Doubled\n"
    assert told not in said.err
    assert main(words, model_class=Doubled).results["test"]["loss"] == cli.results["test"]["loss"]
    assert told not in capsys.readouterr().err
    assert main(words).results["test"]["loss"] == pytest.approx(cli.results["test"]["loss"] / 2)
    assert told in capsys.readouterr().err


def test_another_logger_is_had_beside_tensorboard_and_both_are_named(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trainer.logger+=CSVLogger", "--trainer.logger.save_dir=logs"]
    run = main(["fit", "--config", recipe, *SHORT, *words]).run_dir
    look = [line for line in capsys.readouterr().out.splitlines() if line.startswith("look")]
    assert look == ["look     tensorboard --logdir runs", "look     CSVLogger: logs/lightning_logs/version_0"]
    assert list(run.glob("events.out*"))
    assert Path("logs/lightning_logs/version_0/metrics.csv").is_file()


@pytest.mark.parametrize(("after", "is_said"), [(0.05, True), (0.13, False)])
def test_calibration_is_not_recommended_where_its_own_figures_worsen(
    after: float, is_said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = {"helps": True, "test_ece": 0.057, "test_ece_calibrated": after}
    results = {"throughput": {}, "calibration": calibration, "checkpoint": "a.ckpt", "fit_seconds": 1}
    print_summary(cast(Trainer, SimpleNamespace(loggers=[], callbacks=[])), results, tmp_path, averaged=False)
    assert ("\ncalib" in f"\n{capsys.readouterr().out}") is is_said


# --- files ------------------------------------------------------------------------------------------------------------


def test_one_line_says_what_a_file_of_a_spreadsheet_needs(recipe: str, tmp_path: Path, refused: Refused) -> None:
    words = ["fit", "--config", recipe, *SHORT]
    said = refused([*words, f"--data.dataset={spreadsheet(tmp_path / 'a.csv', 'Kommentar;Note')}"])
    assert "a.csv: its columns, Kommentar, Note, are separated by ';'; set --data.delimiter ';' and " in said
    assert "--data.text_column NAME and --data.label_column NAME and --data.encoding cp1252" in said
    sheet = spreadsheet(tmp_path / "b.csv", "Gr\u00f6\u00dfe;label")
    said = refused([*words, f"--data.dataset={sheet}"])
    assert "line 1: not UTF-8 (byte 0xf6 at column 3); save the file as UTF-8, or add --data.encoding cp1252" in said
    assert "and --data.delimiter ';'" in said
    sheet = spreadsheet(tmp_path / "c.csv", "text;label")
    options = ["--data.delimiter=;", "--data.encoding=cp1252"]
    data = main([*words, f"--data.dataset={sheet}", *options]).datamodule
    assert all(text.endswith("sch\u00f6n") for text in data.splits["train"]["text"])
    assert "--data.encoding cp125: it must be one that extends ASCII" in refused([*words, "--data.encoding=cp125"])


def test_predictions_go_where_the_docs_say(best: Path) -> None:
    shutil.copy(best, "alone.ckpt")
    main(["predict", "--ckpt_path=alone.ckpt"])
    assert len(list(Path("runs").glob("*/predictions.csv"))) == 1
    Path("texts").mkdir()
    Path("texts/new.txt").write_text("great fun\n")
    for _ in range(2):
        main(["predict", "--ckpt_path=alone.ckpt", "--input=texts/new.txt", "--format=jsonl"])
    names = sorted(path.name for path in Path("texts").iterdir())
    assert names == ["new.txt", "predictions-new-2.jsonl", "predictions-new.jsonl"]


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_the_bar_shows_the_metric_that_decides_and_calls_a_batchs_loss_so(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", "--config", recipe, *SHORT, "--checkpoint.monitor=val/f1"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch 0/0")]
    assert len(line.rstrip()) <= 80
    assert [word for word in line.split() if word.endswith(":")] == ["loss:", "val/loss:", "val/f1:"]
    assert " batch loss: " in line


# --- names ------------------------------------------------------------------------------------------------------------


def test_what_is_predicted_has_one_name_in_all_files(trained: Path) -> None:
    main(["predict", f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}", "--output=out.csv"])
    assert Path("out.csv").read_text().startswith("row,text,label,pred,score,prob_neg,prob_pos\n")
    first = (trained / "likely_wrong_labels.csv").read_text().splitlines()[0]
    assert first == "row,label,pred,mean_loss,text"
    classes = json.loads((trained / "metrics.json").read_text())["test"]["classes"]
    assert sum(values["predicted"] for values in classes.values()) == 30
