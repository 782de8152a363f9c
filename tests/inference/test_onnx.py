"""ONNX files in float32 and int8: written, judged and used."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD

from lit_bert import Predictor
from lit_bert.cli import main
from lit_bert.errors import UserError
from lit_bert.export import main as run_export
from lit_bert.inference import export
from lit_bert.inference.onnx import INT8, ONNX
from lit_bert.modeling.checkpoint import read_safely


@pytest.fixture(autouse=True)
def _no_warnings_of_exporters() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both files."""
    folder = tmp_path_factory.mktemp("onnx") / "out"
    [path] = trained.glob("checkpoints/epoch=*.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_export(["--ckpt_path", str(path), "--to", str(folder), "--onnx", "--int8"])
    return folder


def probabilities(predict: Predictor, texts: list[Any]) -> torch.Tensor:
    return torch.tensor([list(answer.probs.values()) for answer in predict(texts)])


def test_int8_is_written_judged_and_used(exported: Path, best: Path, tmp_path: Path) -> None:
    texts = [*GOOD, *BAD, "great fun " * 12]  # lengths that the exporter has not seen
    expected = probabilities(Predictor(best, precision="32-true"), texts)
    assert Predictor(exported, backend="onnx").model.names == ["input_ids", "attention_mask"]
    in_int8 = probabilities(Predictor(exported, backend="onnx"), texts)
    assert 0 < (in_int8 - expected).abs().max() < 0.01
    assert (exported / INT8).stat().st_size < (exported / ONNX).stat().st_size
    card = (exported / "README.md").read_text()
    assert "`model_int8.onnx` has the same model in int8, for onnxruntime on a CPU: on 20 validation rows" in card
    assert {INT8, ONNX} < {line.split()[1] for line in (exported / "SHA256SUMS").read_text().splitlines()}
    shutil.copytree(exported, tmp_path / "copy")
    for name in (INT8, "SHA256SUMS"):
        (tmp_path / "copy" / name).unlink()
    in_float32 = probabilities(Predictor(tmp_path / "copy", backend="onnx"), texts)
    torch.testing.assert_close(in_float32, expected, rtol=0, atol=1e-5)


def test_int8_alone_leaves_no_other_file_and_says_its_accuracy(
    best: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_export(["--ckpt_path", str(best), "--to", "out", "--int8"])
    assert [path.name for path in Path("out").glob("*.onnx")] == [INT8]
    said = capfd.readouterr()
    assert "int8     accuracy on 20 validation rows 0.6000 before, 0.6000 after" in said.out
    assert "WARNING" not in said.err


def test_int8_that_loses_more_than_a_point_is_refused_unless_it_is_forced(
    best: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = {"rows": 1000, "before": 0.9, "after": 0.8}
    monkeypatch.setattr(export, "_int8_accuracy", lambda folder, checkpoint: loss)
    words = ["--ckpt_path", str(best), "--to", "out", "--int8"]
    with pytest.raises(SystemExit):
        run_export(words)
    message = "error: --int8: on 1,000 validation rows it loses 10.0 points of accuracy (0.9000 before, 0.8000 after);"
    assert message in capsys.readouterr().err
    assert not Path("out").exists()
    run_export([*words, "--force"])
    assert "its accuracy is 0.8000, that of the weights in float32 0.9000" in Path("out/README.md").read_text()


def test_files_for_pairs_tell_the_two_texts_apart(best: Path, tmp_path: Path) -> None:
    content = read_safely(best)
    content["datamodule_hyper_parameters"]["text_pair_column"] = "other"
    torch.save(content, tmp_path / "pairs.ckpt")
    export.export(tmp_path / "pairs.ckpt", tmp_path / "out", {}, onnx=True)
    texts = [("great fun", "awful"), ("great", "fun awful")]
    predict = Predictor(tmp_path / "out", backend="onnx")
    assert predict.model.names == ["input_ids", "attention_mask", "token_type_ids"]
    expected = probabilities(Predictor(tmp_path / "pairs.ckpt", precision="32-true"), texts)
    torch.testing.assert_close(probabilities(predict, texts), expected, rtol=0, atol=1e-5)


def test_predict_takes_the_onnx_file(exported: Path) -> None:
    Path("a.txt").write_text("great fun\nawful\n")
    words = ["predict", f"--ckpt_path={exported}", "--input=a.txt", "--trainer.accelerator=cpu", "--backend=onnx"]
    main([*words, "--output=out.jsonl"])
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    answers = Predictor(exported, backend="onnx")(["great fun", "awful"])
    assert [row["prob_pos"] for row in rows] == pytest.approx([answer.probs["pos"] for answer in answers], abs=1e-6)


def test_damage_and_what_has_no_file(exported: Path, trained: Path, best: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--backend onnx: .*ckpt is no exported folder; make one with python -m"):
        Predictor(best, backend="onnx")
    with pytest.raises(UserError, match=r"export: it has neither model_int8.onnx nor model.onnx; export it with"):
        Predictor(trained / "export", backend="onnx")
    with pytest.raises(UserError, match="--backend onnx: it runs on the CPU, not on cuda"):
        Predictor(exported, "cuda", backend="onnx")
    with pytest.raises(UserError, match="--backend onnx: it has no gradients, which explanations need; take torch"):
        Predictor(exported, backend="onnx").explain(["great fun"])
    shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((tmp_path / "copy" / INT8).read_bytes())
    (tmp_path / "copy" / INT8).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"model_int8.onnx: it is not as it was exported"):
        Predictor(tmp_path / "copy", backend="onnx")
    (tmp_path / "copy" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"model_int8.onnx: cannot be loaded \(.*; export it again"):
        Predictor(tmp_path / "copy", backend="onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--model.pretrained=packaged", "--backend=onnx"], "--backend onnx: it is for texts of a file"),
        (["--force"], "--force: it is for --int8; leave it out, or add --int8"),
    ],
)
def test_a_mistake(words: list[str], message: str, best: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, words = (
        (main, words) if words[0] == "predict" else (run_export, [f"--ckpt_path={best}", "--to=out", *words])
    )
    with pytest.raises(SystemExit) as stop:
        command(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_rows_of_another_data_module_cannot_judge_int8(best: Path, tmp_path: Path) -> None:
    content = read_safely(best)
    content["datamodule_hyper_parameters"]["my_option"] = 1
    torch.save(content, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=r"--int8: .*own.ckpt was trained on another data module than TextClass"):
        export.export(tmp_path / "own.ckpt", tmp_path / "out", {}, int8=True)
    assert not (tmp_path / "out").exists()
