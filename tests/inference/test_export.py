import errno
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BAD, GOOD, Capture, Patch, Refused
from huggingface_hub import ModelCard
from models import changed, piped
from safetensors import SafetensorError
from test_predictor import expected
from transformers import BertForSequenceClassification

from lit_bert.errors import UserError
from lit_bert.evaluation.calibration import apply_temperature, expected_calibration_error, fit_temperature
from lit_bert.export import main as run_export
from lit_bert.inference import export
from lit_bert.modeling.checkpoint import Checkpoint, read_safely


def probabilities(folder: Path) -> torch.Tensor:
    """What `transformers` alone says of some sentences."""
    return piped(folder, [*GOOD, *BAD])


def own(path: Path) -> torch.Tensor:
    """What the module says of them."""
    return torch.stack([expected(path, text) for text in (*GOOD, *BAD)])


def test_fit_exports_what_the_pipeline_loads_and_answers_as_the_module_does(trained: Path, best: Path) -> None:
    folder = trained / "export"
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {(folder / "README.md").stat().st_mode & 0o777}
    torch.testing.assert_close(probabilities(folder), own(best), rtol=0, atol=1e-6)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_the_card_has_metadata_for_the_hub_and_the_figures_of_the_run(trained: Path, best: Path) -> None:
    card = ModelCard.load(trained / "export" / "README.md")
    metrics = json.loads((trained / "metrics.json").read_text())
    found = {(of.dataset_split, of.metric_type): of.metric_value for of in card.data.eval_results}
    assert found == {
        (title, kind): round(metrics[split][key], 4)
        for split, title in (("val", "validation"), ("test", "test"))
        for kind, key in (("accuracy", "acc"), ("f1", "f1"))
    }
    assert (card.data.pipeline_tag, card.data.library_name) == ("text-classification", "transformers")
    assert card.data.base_model is None  # it is of a local folder
    assert "on reviews, with AdamW" in card.text
    assert "/tmp" not in (trained / "export" / "README.md").read_text()  # a path is nobody else's business
    assert f"| test | 30 | {metrics['test']['acc']:.4f} | {metrics['test']['acc_low']:.4f} to " in card.text
    assert f"epochs: {read_safely(best)['epoch'] + 1}, " in card.text
    assert "learning_rate: 0.003" in card.text


@pytest.mark.parametrize(
    ("start", "data", "base_model", "dataset"),
    [
        ("packaged", "packaged", "sentence-transformers/all-MiniLM-L6-v2", "cornell-movie-review-data/rotten_tomatoes"),
        ("google-bert/bert-base-cased@main", "me/mine@1", "google-bert/bert-base-cased", "me/mine"),
    ],
)
def test_the_card_names_where_it_comes_from(best: Path, start: str, data: str, base_model: str, dataset: str) -> None:
    path = changed(best, "a.ckpt", model={"pretrained": start}, data={"dataset": data})
    export.export(path, Path("out"), {})
    card = ModelCard.load("out/README.md")
    licence = "apache-2.0" if data == "packaged" else None  # that of data of one's own is not known
    assert (card.data.base_model, card.data.datasets, card.data.license) == (base_model, [dataset], licence)
    assert card.data.eval_results is None
    assert "It was not evaluated." in card.text
    assert ("sentiment" in card.text) is (data == "packaged")
    Path(start.partition("@")[0]).mkdir(parents=True)  # what has that name here is another
    export.export(path, Path("again"), {})
    assert ModelCard.load("again/README.md").data.base_model == (None if start.startswith("google") else base_model)


def overconfident(rows: int, sharpness: float) -> dict[str, torch.Tensor]:
    """Return validation rows whose logits are `sharpness` times as large as they ought to be."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 2, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).flatten()
    return {"probs": (sharpness * logits).softmax(dim=-1), "labels": labels}


def with_validation(monkeypatch: Patch, rows: dict[str, torch.Tensor]) -> None:
    """Let checkpoints have these validation rows."""
    read = Checkpoint.read
    monkeypatch.setattr(export.Checkpoint, "read", lambda path: replace(read(path), val_outputs=rows))


@pytest.mark.parametrize(
    "rows",
    [
        {"probs": torch.tensor([[0.9, 0.1], [0.2, 0.8]] * 20), "labels": torch.tensor([0, 1] * 20)},  # all are right
        {"probs": torch.tensor([[0.75, 0.25]] * 400), "labels": torch.tensor([0, 0, 0, 1] * 100)},  # calibrated as is
    ],
    ids=["at its limit", "no gain"],
)
def test_calibration_without_gain_is_refused(rows: dict[str, torch.Tensor], best: Path, monkeypatch: Patch) -> None:
    with_validation(monkeypatch, rows)
    with pytest.raises(UserError, match="--calibrate: it would not help"):
        export.export(best, Path("out"), {}, calibrate=True)
    assert not Path("out").exists()


def test_calibration_is_folded_into_a_layer(best: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    rows = overconfident(500, 2.0)
    with_validation(monkeypatch, rows)
    temperature = fit_temperature(rows["probs"], rows["labels"])
    assert temperature > 1.5
    run_export(["--ckpt_path", str(best), "--to", str(tmp_path / "out"), "--calibrate"])
    wanted = apply_temperature(own(best), temperature)
    torch.testing.assert_close(probabilities(tmp_path / "out"), wanted, rtol=0, atol=1e-6)
    before = expected_calibration_error(rows["probs"], rows["labels"])
    after = expected_calibration_error(apply_temperature(rows["probs"], temperature), rows["labels"])
    line = f"temperature {temperature:.3f}; calibration error on the validation rows {before:.4f} before, "
    line += f"{after:.4f} after\n"
    said = capsys.readouterr().out
    assert line in said
    assert said.endswith("export   out\n")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Its logits are divided by {temperature:.3f}: " in card
    assert "| test | 30 |" in card  # the run's figures, found beside the checkpoint


def without_bias(content: dict[str, Any]) -> dict[str, Any]:
    weights = {name: value for name, value in content["state_dict"].items() if name != "model.classifier.bias"}
    return {**content, "state_dict": weights}


@pytest.mark.parametrize(
    ("path", "to", "options", "message"),
    [
        ("best", "full", {}, "--to full: it is not empty; give a folder that is new or empty"),
        ("nowhere.ckpt", "out", {}, "--ckpt_path nowhere.ckpt: there is no such file"),
        ("early", "out", {"calibrate": True}, "was not written right after a validation, so it has no rows to fit to"),
        ("other", "out", {}, "its weights are not those of the model that it describes (1 differ)"),
        ("best", "out", {"onnx": True}, "--onnx: install what it needs with pip install '.[onnx]'"),
        ("best", "file/out", {}, "--to file/out: cannot be written (Not a directory)"),
        ("best", "file", {}, "--to file: it is not empty; give a folder that is new or empty"),
        ("best", ".", {}, "--to .: it is not empty; give a folder that is new or empty"),
    ],
)
def test_a_mistake_leaves_everything_as_it_was(
    best: Path, tmp_path: Path, path: str, to: str, options: dict[str, bool], message: str, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    Path("full").mkdir()
    for file in ("full/thesis.txt", "file"):
        Path(file).write_text("precious")
    change = {"early": lambda content: {**content, "val_outputs": {}}, "other": without_bias}.get(path)
    if change:
        torch.save(change(read_safely(best)), path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=re.escape(message)):
        export.export(best if path == "best" else Path(path), Path(to), {}, **options)
    assert sorted(tmp_path.rglob("*")) == before


def test_figures_of_another_checkpoint_are_not_taken(trained: Path, best: Path, tmp_path: Path) -> None:
    assert set(export.load_metrics(best)) == {"val", "test"}
    assert export.load_metrics(trained / "checkpoints" / "last.ckpt") == {}
    assert export.load_metrics(Path(shutil.copy(best, tmp_path))) == {}


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_full_disk_is_told_and_nothing_left(best: Path, tmp_path: Path, error: Exception, monkeypatch: Patch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(BertForSequenceClassification, "save_pretrained", full)
    (tmp_path / ".out.partial").mkdir()  # left by an export that was killed
    with pytest.raises(UserError, match=r"--to .*out: cannot be written \(.*No space left on device"):
        export.export(best, tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []


def test_the_best_checkpoint_of_the_newest_run_is_exported(
    trained: Path, tmp_path: Path, monkeypatch: Patch, refused: Refused
) -> None:
    monkeypatch.chdir(trained.parents[1])
    run_export(["--ckpt_path", "best", "--to", str(tmp_path / "out")])
    assert "| test | 30 |" in (tmp_path / "out" / "README.md").read_text()
    refused(["--ckpt_path", "worst", "--to", str(tmp_path / "again")], command=run_export)
