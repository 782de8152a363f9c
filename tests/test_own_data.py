"""One's own data, from the command line: one file, labels of any kind, pairs, long texts, rows without a label."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BAD, GOOD, NO_END, Capture, Patch, Refused, rows_of
from transformers import pipeline

from lit_bert import Predictor
from lit_bert.cli import main

QUICK = ["--trainer.max_epochs=1", "--trainer.precision=32-true", "--data.batch_size=8"]
UNEXPORTED = [*QUICK, "--export_after_fit=false"]


def table(path: Path, rows: list[Any], *columns: str) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns or ("text", "label"), *rows])
    return str(path)


def labelled(count: int, good: Any = "pos", bad: Any = "neg") -> list[tuple[str, Any]]:
    texts = [*GOOD, *BAD]
    return [(f"{texts[row % len(texts)]} {row}", good if row % len(texts) < len(GOOD) else bad) for row in range(count)]


def test_one_file_is_enough_and_test_and_predict_find_the_rows_that_were_held_out(
    tiny_bert: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture, refused: Refused
) -> None:
    monkeypatch.setenv("LIT_BERT_RECIPE_OWN_DATA", "own_data_packaged.yaml: a test")
    file = table(tmp_path / "my reviews.csv", labelled(60))
    words = [f"--model.pretrained={tiny_bert}", "--data.max_length=32", "--trainer.precision=32-true"]
    words.append("--export_after_fit=false")
    cli = main(["fit", "--data.dataset", file, *words])
    said = capsys.readouterr().out
    assert "data     48 training, 6 validation, 6 test rows; classes neg, pos" in said
    assert "held out 6 validation and 6 test rows" in said
    assert cli.trainer.max_epochs == 20  # 48 rows are few
    assert cli.run_dir.name.startswith("own_data-my_reviews_")
    assert cli.trainer.checkpoint_callback.monitor == "val/f1"
    metrics = json.loads((cli.run_dir / "metrics.json").read_text())
    again = main(["test", "--ckpt_path=best"])
    assert again.run_dir == cli.run_dir
    assert again.results["test"]["acc"] == metrics["test"]["acc"]
    assert again.results["test"]["loss"] == pytest.approx(metrics["test"]["loss"])
    main(["predict", "--ckpt_path=best"])
    predicted = rows_of(cli.run_dir / "predictions.csv")
    assert len(predicted) == 6
    assert sum(row["label"] == row["pred"] for row in predicted) / 6 == pytest.approx(metrics["test"]["acc"])
    assert {row["text"] for row in predicted} < {text for text, _ in labelled(60)}
    # Other rows would be held out, among them some it was trained on.
    assert "--data.dataset" in refused(["test", "--ckpt_path=best", "--data.holdout=0.2"])


@pytest.mark.parametrize(("labels", "names"), [((10, -9), ["-9", "10"]), (("True", "False"), ["False", "True"])])
def test_labels_are_kept_as_names_and_long_texts_are_cut_alike(
    labels: Any, names: list[str], recipe: str, tmp_path: Path
) -> None:
    """In checkpoint, metrics, and the export, which other libraries read, too."""
    long = [(f"{' '.join([text] * 8)}", label) for text, label in labelled(40, *labels)]
    words = [f"--data.dataset={table(tmp_path / 'long.csv', long)}", "--data.long_text=head_tail"]
    run = main(["fit", "--config", recipe, *words, "--data.max_length=8", *QUICK]).run_dir
    assert list(json.loads((run / "metrics.json").read_text())["test"]["classes"]) == names
    [answer] = pipeline("text-classification", str(run / "export"), top_k=None)(["a warm film"])
    assert {score["label"] for score in answer} == set(names)
    [best] = run.glob("checkpoints/epoch=*.ckpt")
    texts = [text for text, _ in long[:5]]
    ours, theirs = (Predictor(path, precision="32-true")(texts) for path in (best, run / "export"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.probs == pytest.approx(other.probs, abs=1e-6)
    assert json.loads((run / "export" / "config.json").read_text())["lit_bert"]["long_text"] == "head_tail"


def test_pairs_go_all_the_way(recipe: str, tmp_path: Path) -> None:
    pairs = [(text, f"{text} {row}", label) for row, (text, label) in enumerate(labelled(40))]
    file = table(tmp_path / "pairs.csv", pairs, "first", "second", "label")
    words = ["--data.text_column=first", "--data.text_pair_column=second"]
    run = main(["fit", "--config", recipe, f"--data.dataset={file}", *words, *QUICK]).run_dir
    export = run / "export"
    words = [f"--input={file}", "--data.text_column=first", "--trainer.precision=32-true"]
    assert main(["predict", f"--ckpt_path={export}", *words]).run_dir == run
    predicted = rows_of(run / "predictions-pairs.csv")
    found = [(row["text"], row["text_pair"], row["row"]) for row in predicted]
    assert found[:2] == [(*pairs[0][:2], "1"), (*pairs[1][:2], "2")]
    [prediction] = Predictor(export, precision="32-true")([(pairs[0][0], pairs[0][1])])
    theirs = pipeline("text-classification", str(export))({"text": pairs[0][0], "text_pair": pairs[0][1]})
    answer: Any = theirs[0] if isinstance(theirs, list) else theirs
    assert answer["score"] == pytest.approx(prediction.score, abs=1e-5)
    assert float(predicted[0]["score"]) == pytest.approx(prediction.score, abs=1e-5)


def test_test_rows_without_a_label_are_predicted_and_not_tested(
    recipe: str, reviews: Path, capsys: Capture, refused: Refused
) -> None:
    table(reviews / "test.csv", [(text, "") for text, _ in labelled(7)])
    run = main(["fit", "--config", recipe, *UNEXPORTED]).run_dir
    assert "no test rows with a label" in capsys.readouterr().out
    assert "test" not in json.loads((run / "metrics.json").read_text())
    main(["predict", "--ckpt_path=last"])
    assert [row["label"] for row in rows_of(run / "predictions.csv")] == [""] * 7
    assert "there are no test rows with a label" in refused(["test", "--ckpt_path=last"])
    (reviews / "test.csv").unlink()
    main(["fit", "--config", recipe, *UNEXPORTED])
    said = capsys.readouterr().out
    assert "40 training, 20 validation, no test rows" in said
    assert "Testing" not in said


def test_a_name_is_the_folders_and_is_not_taken_twice(recipe: str, refused: Refused) -> None:
    for name in ("mine", "mine-2"):
        assert main(["fit", "--config", recipe, *QUICK, *NO_END, "--name=mine"]).run_dir.name == name
    assert "--name a/b" in refused(["fit", "--config", recipe, *QUICK, "--name=a/b"])


@pytest.mark.usefixtures("pixels")
def test_what_is_wrong_with_the_rows_is_said_and_stored(
    recipe: str, reviews: Path, capsys: Capture, recwarn: pytest.WarningsRecorder
) -> None:
    """Contradictions, leaks, and a class without rows to evaluate, of which no warning is shown."""
    rows = [*labelled(36), ("A leak!", "pos"), ("x y", "neg"), ("X Y", "pos")]
    table(reviews / "train.csv", [*rows, *[(f"so so {row}", "mixed") for row in range(6)]])
    table(reviews / "test.csv", [*labelled(8), ("a  leak", "pos")])
    run = main(["fit", "--config", recipe, *UNEXPORTED, "--data.drop_leaked=true"]).run_dir
    said = capsys.readouterr().out
    assert "audit    2 rows share their text with a row of another label" in said
    assert "(of the 2 of 3 classes that have rows)" in said
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["audit"]["contradicting"] == 2
    assert metrics["audit"]["leaked"] == 0
    assert sum(metrics["audit"]["classes"]["train"].values()) < 45
    assert metrics["test"]["classes_with_rows"] == 2
    assert not [warning for warning in recwarn if "positive" in str(warning.message)]
