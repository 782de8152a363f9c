"""The command line as a user meets it, from `--help` to a resumed run."""

import json
import os
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, NO_END, Capture, Patch, Refused, Stopped, accumulated, events, rows_of

from lit_bert.cli import main
from lit_bert.modeling.checkpoint import read_safely
from lit_bert.run.help import OURS


@pytest.mark.usefixtures("pixels")
def test_fit_leaves_a_whole_run(recipe: str, capsys: Capture) -> None:
    cli = main(["fit", "--config", recipe])
    run = cli.run_dir
    assert re.fullmatch(r"tiny-reviews_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", run.name)
    assert run.parent == Path("runs").absolute()
    metrics = json.loads((run / "metrics.json").read_text())
    assert {split: metrics[split]["rows"] for split in ("val", "test")} == {"val": 20, "test": 30}
    assert metrics["test"]["acc_low"] < metrics["test"]["acc"] <= metrics["test"]["acc_high"]
    best = run / metrics["checkpoint"]
    assert re.fullmatch(r"epoch=\d-val_acc=\d\.\d{4}\.ckpt", best.name)
    assert f"{metrics['val']['acc']:.4f}" in best.name
    assert {file.name for file in (run / "checkpoints").iterdir()} == {best.name, "last.ckpt"}
    origin = json.loads((run / "provenance.json").read_text())
    assert origin["data"]["rows"] == {"train": 40, "val": 20, "test": 30}
    assert re.fullmatch("[0-9a-f]{20}", origin["data"]["fingerprint"])
    assert origin["versions"]["torch"] == version("torch")
    assert re.fullmatch("[0-9a-f]{40}", origin["git"] or "0" * 40)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["learning_rate"] == 0.003
    assert config["trainer"]["precision"] == "32-true"

    scalars = events(run)
    assert {"train/loss", "train/lr/pg1", "train/grad_norm", "train/acc", "val/loss", "val/f1"} <= set(scalars)
    assert scalars["final/test_acc"] == [pytest.approx(metrics["test"]["acc"])]
    assert len(scalars["val/acc"]) == 2
    assert accumulated(run).summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name == "hparams"

    record = metrics["test"]
    others = record["baselines"]
    assert {name: of["rows"] for name, of in others.items()} == {"majority class": 30, "TF-IDF, linear": 30}
    assert others["majority class"]["acc"] == 0.5
    assert others["TF-IDF, linear"]["acc"] == 1.0  # the ten sentences are those of training
    assert sum(of["rows"] for of in record["classes"].values()) == 30
    assert record["slices"]["negation"]["rows"] == 3

    said = capsys.readouterr().out
    assert "majority class" in said
    assert "class (test)" in said
    assert "data     40 training, 20 validation, 30 test rows; classes neg, pos\n" in said
    table = [line.split() for line in said.splitlines() if line.startswith((" val", " test"))]
    assert [row[:2] for row in table] == [["val", "20"], ["test", "30"]]
    assert table[1][2] == f"{metrics['test']['acc']:.4f}"
    assert f"tensorboard --logdir {run.parent.name}" in said
    assert f"python train.py predict --ckpt_path {best.relative_to(Path.cwd())}" in said


def test_test_and_predict_need_the_checkpoint_and_the_data_alone(recipe: str, tmp_path: Path, tiny_bert: str) -> None:
    shutil.copytree(tiny_bert, tmp_path / "encoder")
    words = [f"--model.pretrained={tmp_path}/encoder", "--trainer.max_epochs=1", *NO_END]
    fit = main(["fit", "--config", recipe, *words])
    shutil.rmtree(tmp_path / "encoder")
    shutil.rmtree(Path(os.environ["LIT_BERT_CACHE"]) / "tokenised")
    last = fit.run_dir / "checkpoints" / "last.ckpt"
    tested = main(["test", f"--ckpt_path={last}"])
    assert tested.run_dir == fit.run_dir
    record = json.loads((tested.run_dir / "metrics-test.json").read_text())

    moved = tmp_path / "moved.ckpt"
    shutil.copy(last, moved)
    predicted = main(["predict", f"--ckpt_path={moved}"])
    rows = rows_of(predicted.run_dir / "predictions.csv")
    assert [int(row["row"]) for row in rows] == list(range(1, 31))
    assert sum(row["label"] == row["pred"] for row in rows) == round(30 * record["test"]["acc"])
    for row in rows:
        assert float(row["score"]) == max(float(row["prob_neg"]), float(row["prob_pos"]))
    main(["predict", f"--ckpt_path={last}"])
    main(["predict", f"--ckpt_path={last}", "--data.predict_split=val"])
    assert {file.name for file in fit.run_dir.glob("predictions*")} == {"predictions.csv", "predictions-2.csv"}


def test_last_is_the_last_epoch_though_an_earlier_one_is_best_also_where_the_run_was_moved(recipe: str) -> None:
    """Lightning's `save_last` writes only when it writes a best one, too."""
    cli = main(["fit", "--config", recipe, "--model.learning_rate=0", *NO_END])  # no epoch beats the first
    checkpoints = cli.run_dir.rename("moved") / "checkpoints"
    assert read_safely(checkpoints / "last.ckpt")["epoch"] == 1
    again = main(["fit", f"--ckpt_path={checkpoints}/last.ckpt", "--trainer.max_epochs=3"])
    assert again.trainer.global_step == 15
    assert {file.name for file in checkpoints.iterdir()} == {"epoch=0-val_acc=0.5000.ckpt", "last.ckpt"}
    record = json.loads((again.run_dir / "metrics.json").read_text())
    assert record["checkpoint"].endswith("epoch=0-val_acc=0.5000.ckpt")


def test_a_checkpoint_beside_a_config_of_something_else_stands_alone(best: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "models").mkdir(parents=True)
    (tmp_path / "site" / "config.yaml").write_text("site_name: mine\n")
    path = shutil.copy(best, tmp_path / "site" / "models")
    assert main(["test", f"--ckpt_path={path}"]).run_dir.parent == Path("runs").absolute()


def test_a_flag_beats_what_the_checkpoint_stored(recipe: str, tmp_path: Path) -> None:
    """Lightning lets the checkpoint win (PL#21455)."""
    fit = main(["fit", "--config", recipe, "--data.batch_size=10", *NO_END])
    last = fit.run_dir / "checkpoints" / "last.ckpt"
    for path in (Path(shutil.copy(last, tmp_path / "moved.ckpt")), last):
        words = ["fit", f"--ckpt_path={path}", "--model.learning_rate=0.001", "--model.weight_decay=0.5", *NO_END]
        cli = main([*words, "--trainer.max_epochs=4", "--trainer.log_every_n_steps=1"])
        assert (cli.model.learning_rate, cli.model.hparams.learning_rate) == (0.001, 0.001)
        assert cli.datamodule.batch_size == 10  # stored, and not overruled
        assert (cli.run_dir == fit.run_dir) is (path == last)
        assert cli.trainer.global_step == 16
        rates = events(cli.run_dir)["train/lr/pg1"]
        assert rates == pytest.approx([0.001 * (16 - step) / 16 for step in range(8, 16)])
        assert [group["weight_decay"] for group in cli.trainer.optimizers[0].param_groups] == [0.5, 0.0]


def test_print_config_prints_nothing_but_the_config(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--print_config"])
    assert not stop.value.code
    said = capsys.readouterr()
    assert yaml.safe_load(said.out)["model"]["pretrained"] == "packaged"
    assert said.err.startswith("recipe   packaged.yaml: the Hugging Face Hub is out of reach")


@pytest.mark.parametrize(
    "path",
    sorted(path for path in CONFIGS.glob("*.yaml") if path.stem not in ("search", "ablation")),
    ids=lambda path: path.stem,
)
def test_every_recipe_is_valid_and_says_how_to_run_it(path: Path, stopped: Stopped) -> None:
    command = f"# python train.py fit --config configs/{path.name}"
    assert path.read_text().startswith((f"{command}\n", f"{command} --data.dataset reviews.csv\n"))
    printed = yaml.safe_load(stopped(["fit", "--config", str(path), "--print_config"]))
    for section, values in yaml.safe_load(path.read_text()).items():
        for name, value in values.items() if isinstance(values, dict) else ():
            assert printed[section][name] == value


def test_help_explains_every_option(stopped: Stopped) -> None:
    text = stopped(["fit", "--help=full"])
    assert "lambda" not in text
    entries = re.findall(r"^  --((?:model|data)\.[\w.]+)([^\n]*\n(?:    +[^\n]*\n)*)", text, re.MULTILINE)
    assert {"model.learning_rate", "data.batch_size", "data.dataset"} <= {name for name, _ in entries}
    for name, meaning in entries:  # below the option, or beside it if that is short
        assert re.search(r'(\n {20,}|  )["A-Z]', meaning) or name.endswith(("help", "+")), name


@pytest.mark.parametrize(("split", "rows"), [("test", {"val": 14}), ("val", {"test": 21})])
def test_rows_of_the_table_are_those_evaluated_or_none(recipe: str, split: str, rows: dict[str, int]) -> None:
    limits = {"val": 2, "test": 3} | {split: 0}
    words = [f"--trainer.limit_{name}_batches={limit}" for name, limit in limits.items()]
    words += ["--data.eval_batch_size=7", "--checkpoint.monitor=null", "--trainer.max_epochs=1"]
    records = json.loads((main(["fit", "--config", recipe, *words]).run_dir / "metrics.json").read_text())
    assert {name: records[name]["rows"] for name in ("val", "test") if name in records} == rows
    assert records["calibration"] == {}


def test_the_length_of_a_config_gives_way_to_the_encoders(recipe: str, refused: Refused, capsys: Capture) -> None:
    content = yaml.safe_load(Path(recipe).read_text())
    content["data"]["max_length"] = 33
    Path(recipe).write_text(yaml.safe_dump(content))
    run = main(["fit", "--config", recipe, "--trainer.max_epochs=1", *NO_END]).run_dir
    line = "length   --data.max_length 33 of the config is lowered to the encoder's 32 tokens"
    assert line in capsys.readouterr().out
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["max_length"] == 32
    assert "--data.max_length 34: " in refused(["fit", "--config", recipe, "--data.max_length=34"])


def test_predictions_of_the_data_go_where_they_are_wanted(best: Path, capfd: Capture) -> None:
    main(["predict", f"--ckpt_path={best}", "--output=-", "--format=jsonl", "--trainer.enable_progress_bar=false"])
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["row"] for row in rows] == list(range(1, 31))
    main(["predict", f"--ckpt_path={best}", "--output=out.jsonl"])
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == rows


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_is_short_and_its_options_exist(command: str, stopped: Stopped) -> None:
    text = stopped([command, "--help"])
    assert len(text.splitlines()) < 150
    options = set(re.findall(r"^  (--[\w.]+)", text, re.MULTILINE))
    assert {"--data.dataset", "--model.pretrained", "--trainer.max_epochs", "--ckpt_path", "--config"} <= options
    assert set(OURS) - {"print_config"} <= {option[2:] for option in options}
    for entry in re.split(r"^  --", text.partition("All of Lightning")[0], flags=re.MULTILINE)[1:]:
        assert re.sub(r"\n\n.*", "", entry, flags=re.DOTALL).rstrip().endswith("."), entry


@pytest.mark.parametrize(
    ("script", "call"),
    [
        ("train.py", "python train.py"),
        ("examples/my own.py", "python 'examples/my own.py'"),
        ("lit_bert/__main__.py", "python -m lit_bert"),
        ("bin/lit-bert", "lit-bert"),
    ],
)
def test_help_and_mistakes_name_the_program_as_it_was_called(
    script: str, call: str, refused: Refused, stopped: Stopped, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    page = stopped(["fit", "--help"])
    assert page.startswith(f"usage: {call} fit [--config FILE]")
    assert f"\nA recipe has defaults of its own, which {call} fit --print_config shows.\n" in page
    assert refused(["fit", "--modl=x"]).endswith(f"\nOptions and their meaning: {call} fit --help\n")
