"""Code that comes with a model or a checkpoint never runs, and standard input is never asked whether it may."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lit_bert.cli import main

CODE = "open('ran', 'w').close()\nfrom transformers import BertConfig as Evil, BertTokenizerFast as EvilTokenizer\n"


@pytest.fixture(autouse=True)
def _standard_input_says_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = io.TextIOWrapper(io.BytesIO(b"y\n" * 99))
    monkeypatch.setattr(sys, "stdin", answers)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with one line, before any code of others has run."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    assert not list(Path().rglob("ran"))
    assert stop.value.code == 2
    assert "[y/N]" not in said.out + said.err
    [line] = [line for line in said.err.splitlines() if line.startswith("error: ")]
    return line


def hostile(folder: Path, tokenizer: bool = False) -> Path:
    """Let a model folder ask for code that lies beside it."""
    name = "tokenizer_config.json" if tokenizer else "config.json"
    described = json.loads((folder / name).read_text())
    if tokenizer:
        described |= {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": [None, "evil.EvilTokenizer"]}}
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "mobilebert"}))
    else:
        described |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    (folder / name).write_text(json.dumps(described))
    (folder / "evil.py").write_text(CODE)
    return folder


def test_code_in_a_model_folder_is_refused_by_fit(
    recipe: str, tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hostile(Path(shutil.copytree(tiny_bert, tmp_path / "model")))
    line = refused(["fit", "--config", recipe, f"--model.pretrained={folder}"], capsys)
    assert "model type 'evil', which transformers does not have; code that comes with a model is never run" in line


def test_code_of_a_tokenizer_is_not_run(
    recipe: str, tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hostile(Path(shutil.copytree(tiny_bert, tmp_path / "model")), tokenizer=True)
    with pytest.raises(SystemExit):
        main(["fit", "--config", recipe, f"--model.pretrained={folder}"])
    said = capsys.readouterr()
    assert "[y/N]" not in said.out + said.err
    assert not list(Path().rglob("ran"))


def test_code_in_an_exported_folder_is_refused_by_predict(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hostile(Path(shutil.copytree(trained / "export", tmp_path / "model")))
    assert "'evil'" in refused(["predict", f"--ckpt_path={folder}", "--input=-"], capsys)


@pytest.mark.parametrize("command", ["fit", "test", "predict"])
def test_code_in_a_checkpoint_is_refused(
    best: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(best, weights_only=True)
    given, files = content["hyper_parameters"], content["tokenizer_files"]
    config = {**given["encoder_config"], "model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}
    torch.save({**content, "hyper_parameters": {**given, "encoder_config": config}}, tmp_path / "type.ckpt")
    torch.save({**content, "tokenizer_files": {**files, "evil.py": CODE}}, tmp_path / "code.ckpt")
    for name, reason in (("type", "model type 'evil'"), ("code", "refused, because it holds 'evil.py'")):
        assert reason in refused([command, f"--ckpt_path={tmp_path / name}.ckpt"], capsys)
    if command == "predict":
        assert "evil" in refused([command, f"--ckpt_path={tmp_path / 'type'}.ckpt", "--input=-"], capsys)


def test_attention_kernels_named_by_a_config_are_not_fetched(
    recipe: str, tiny_bert: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attn_implementation": "evil/kernel"}))
    main(["fit", "--config", recipe, f"--model.pretrained={folder}", "--trainer.max_epochs=1"])
    assert "evil" not in capsys.readouterr().err


def test_a_config_in_a_runs_folder_calls_nothing_when_its_checkpoint_is_evaluated(
    trained: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    evil = "  callbacks:\n  - class_path: evil.Callback\n"
    (run / "config.yaml").write_text(text.replace("  callbacks: null\n", evil))
    assert evil in (run / "config.yaml").read_text()
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\nfrom lightning.pytorch import Callback\n")
    for words in (["test"], ["predict"], ["predict", "--input=-", "--output=out.csv"]):
        main([*words, f"--ckpt_path={run}/checkpoints/last.ckpt"])
    assert not list(Path().rglob("ran"))


def test_a_checkpoint_names_no_class_to_import(best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(best, weights_only=True)
    content["hyper_parameters"]["optimizer"] = {"class_path": "evil.Optimizer", "init_args": {}}
    torch.save(content, tmp_path / "evil.ckpt")
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\n")
    sys.path.insert(0, str(tmp_path))
    try:
        main(["test", f"--ckpt_path={tmp_path}/evil.ckpt"])
        line = refused(["fit", f"--ckpt_path={tmp_path}/evil.ckpt"], capsys)
    finally:
        sys.path.remove(str(tmp_path))
    assert "it was trained with evil.Optimizer; name it with --optimizer" in line
    assert not list(Path().rglob("ran"))
