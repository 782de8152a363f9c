"""Code that comes with a model or a checkpoint never runs, and standard input is never asked whether it may."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import Capture, Patch
from models import changed as edited

from lit_bert.cli import main
from lit_bert.modeling.checkpoint import read_safely

CODE = "open('ran', 'w').close()\nfrom transformers import BertConfig as Evil, BertTokenizerFast as EvilTokenizer\n"
EVIL = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}


@pytest.fixture(autouse=True)
def _standard_input_says_yes(monkeypatch: Patch) -> None:
    answers = io.TextIOWrapper(io.BytesIO(b"y\n" * 99))
    monkeypatch.setattr(sys, "stdin", answers)


def refused(words: list[str], capsys: Capture) -> str:
    """Run a command that must end with one line, before any code of others has run."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    assert not list(Path().rglob("ran"))
    assert stop.value.code == 2
    assert "[y/N]" not in said.out + said.err
    [line] = [line for line in said.err.splitlines() if line.startswith("error: ")]
    return line


def changed(source: str | Path, folder: Path, name: str, **entries: object) -> Path:
    """Copy a model folder with code in it, and other entries in one of its files."""
    shutil.copytree(source, folder)
    (folder / "evil.py").write_text(CODE)
    described = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**described, **entries}))
    return folder


def test_a_models_code_is_refused(recipe: str, tiny_bert: str, trained: Path, tmp_path: Path, capsys: Capture) -> None:
    model = changed(tiny_bert, tmp_path / "model", "config.json", **EVIL)
    line = refused(["fit", "--config", recipe, f"--model.pretrained={model}"], capsys)
    assert "model type 'evil', which transformers does not have; code that comes with a model is never run" in line
    export = changed(trained / "export", tmp_path / "export", "config.json", **EVIL)
    assert "'evil'" in refused(["predict", f"--ckpt_path={export}", "--input=-"], capsys)


def test_code_of_a_tokenizer_is_not_run(recipe: str, tiny_bert: str, tmp_path: Path, capsys: Capture) -> None:
    evil = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}}
    folder = changed(tiny_bert, tmp_path / "tokenizer", "tokenizer_config.json", **evil)
    folder = changed(folder, tmp_path / "model", "config.json", model_type="mobilebert")
    with pytest.raises(SystemExit):
        main(["fit", "--config", recipe, f"--model.pretrained={folder}"])
    said = capsys.readouterr()
    assert "[y/N]" not in said.out + said.err
    assert not list(Path().rglob("ran"))


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_code_in_a_checkpoint_is_refused(best: Path, tmp_path: Path, command: str, capsys: Capture) -> None:
    content = read_safely(best)
    config = {**content["hyper_parameters"]["encoder_config"], **EVIL}
    edited(best, tmp_path / "type.ckpt", model={"encoder_config": config})
    edited(best, tmp_path / "code.ckpt", tokenizer_files={**content["tokenizer_files"], "evil.py": CODE})
    for name, reason in (("type", "model type 'evil'"), ("code", "refused, because it holds 'evil.py'")):
        assert reason in refused([command, f"--ckpt_path={tmp_path / name}.ckpt"], capsys)
    if command == "predict":
        assert "evil" in refused([command, f"--ckpt_path={tmp_path / 'type'}.ckpt", "--input=-"], capsys)


def test_kernels_of_a_config_are_not_fetched(recipe: str, tiny_bert: str, tmp_path: Path, capsys: Capture) -> None:
    folder = changed(tiny_bert, tmp_path / "model", "config.json", attn_implementation="evil/kernel")
    main(["fit", "--config", recipe, f"--model.pretrained={folder}", "--trainer.max_epochs=1"])
    assert "evil" not in capsys.readouterr().err


def test_a_config_beside_a_checkpoint_that_is_evaluated_calls_nothing(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    evil = "  callbacks:\n  - class_path: evil.Callback\n"
    (run / "config.yaml").write_text(text.replace("  callbacks: null\n", evil))
    assert evil in (run / "config.yaml").read_text()
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\nfrom lightning.pytorch import Callback\n")
    for words in (["test"], ["predict"], ["predict", "--input=-", "--output=out.csv"]):
        main([*words, f"--ckpt_path={run}/checkpoints/last.ckpt"])
    assert not list(Path().rglob("ran"))


def test_a_checkpoint_names_no_class_to_import(best: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    edited(best, tmp_path / "evil.ckpt", model={"optimizer": {"class_path": "evil.Optimizer", "init_args": {}}})
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    main(["test", f"--ckpt_path={tmp_path}/evil.ckpt"])
    line = refused(["fit", f"--ckpt_path={tmp_path}/evil.ckpt"], capsys)
    assert "it was trained with evil.Optimizer; name it with --optimizer" in line
