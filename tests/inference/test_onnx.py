"""ONNX files in float32 and int8: written, and judged."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import BAD, GOOD, Capture, Patch, Refused
from models import changed

from lit_bert import Predictor
from lit_bert.errors import UserError
from lit_bert.export import main as run_export
from lit_bert.inference import export
from lit_bert.inference.onnx import INT8, ONNX
from lit_bert.modeling.tokenizer import load_tokenizer

TEXTS = [*GOOD, *BAD, "great fun " * 12]
"""Of lengths that the exporter has not seen."""


@pytest.fixture(autouse=True)
def _no_warnings_of_exporters() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def probabilities(file: Path, *texts: list[str]) -> torch.Tensor:
    """What onnxruntime alone says of texts, or of pairs."""
    tokenizer = load_tokenizer(file.parent, "")
    inputs = tokenizer(*texts, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(str(file))
    [logits] = session.run(["logits"], {node.name: inputs[node.name] for node in session.get_inputs()})
    return torch.from_numpy(logits).softmax(dim=-1)


def expected(path: Path, texts: list[Any]) -> torch.Tensor:
    return torch.tensor([list(answer.probs.values()) for answer in Predictor(path, "cpu", "32-true")(texts)])


def test_both_files_are_written_judged_and_answer_as_the_model_does(best: Path, capfd: Capture) -> None:
    run_export(["--ckpt_path", str(best), "--to", "out", "--onnx", "--int8"])
    said = capfd.readouterr()
    assert "onnx     largest difference of a probability from PyTorch: " in said.out
    assert "int8     accuracy on 20 validation rows 0.6000 before, 0.6000 after" in said.out
    assert "WARNING" not in said.err
    folder, wanted = Path("out"), expected(best, TEXTS)
    torch.testing.assert_close(probabilities(folder / ONNX, TEXTS), wanted, rtol=0, atol=1e-5)
    assert 0 < (probabilities(folder / INT8, TEXTS) - wanted).abs().max() < 0.01
    assert (folder / INT8).stat().st_size < (folder / ONNX).stat().st_size
    card = (folder / "README.md").read_text()
    assert "`model_int8.onnx` has the same model in int8, for onnxruntime on a CPU: on 20 validation rows" in card


def test_int8_that_loses_more_than_a_point_is_refused_unless_it_is_forced(
    best: Path, monkeypatch: Patch, refused: Refused
) -> None:
    monkeypatch.setattr(export, "write_onnx", lambda *_: 0.0)
    monkeypatch.setattr(export, "quantize", lambda source, path: (source.touch(), path.touch()))
    loss = {"rows": 1000, "before": 0.9, "after": 0.8}
    monkeypatch.setattr(export, "compare_accuracy", lambda *_: loss)
    words = ["--ckpt_path", str(best), "--to", "out", "--int8"]
    message = "error: --int8: it loses 10.0 points of accuracy (on 1,000 validation rows 0.9000 before, 0.8000 after);"
    assert message in refused(words, command=run_export)
    assert not Path("out").exists()
    run_export([*words, "--force"])
    assert "its accuracy is 0.8000, that of the weights in float32 0.9000" in Path("out/README.md").read_text()
    assert [path.name for path in Path("out").glob("*.onnx")] == [INT8]  # the other one was not asked for


def test_files_for_pairs_tell_the_two_texts_apart(best: Path, tmp_path: Path) -> None:
    path = changed(best, tmp_path / "pairs.ckpt", data={"text_pair_column": "other"})
    export.export(path, tmp_path / "out", {}, onnx=True)
    first, second = ["great fun", "great"], ["awful", "fun awful"]
    wanted = expected(path, list(zip(first, second, strict=True)))
    torch.testing.assert_close(probabilities(tmp_path / "out" / ONNX, first, second), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("my_option", 1, r"--int8: .*own.ckpt was trained on another data module than TextClass"),
        ("class_names", ["pos", "neg"], r"the model's classes are neg, pos, those of --data.dataset .* are pos, neg"),
    ],
)
def test_rows_that_cannot_judge_int8(
    best: Path, tmp_path: Path, option: str, value: Any, message: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(export, "write_onnx", lambda *_: 0.0)
    monkeypatch.setattr(export, "quantize", lambda *_: None)
    path = changed(best, tmp_path / "own.ckpt", data={option: value})
    with pytest.raises(UserError, match=message):
        export.export(path, tmp_path / "out", {}, int8=True)
    assert not (tmp_path / "out").exists()
