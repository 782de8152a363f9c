import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BAD, GOOD, Patch
from models import changed

from lit_bert import BertClassifier, Predictor
from lit_bert.errors import UserError
from lit_bert.inference import export, predictor
from lit_bert.modeling.checkpoint import Checkpoint, read_safely
from lit_bert.modeling.tokenizer import find_tokenizer


def expected(path: Path, text: str) -> torch.Tensor:
    """The module's own probabilities of one sentence, without a batch or padding."""
    module = BertClassifier.load_from_checkpoint(path).eval()
    checkpoint = Checkpoint.read(path)
    tokenizer = find_tokenizer(checkpoint)
    with torch.inference_mode():
        return module(torch.tensor([tokenizer(text).input_ids])).softmax(dim=-1)[0]


@pytest.mark.parametrize("source", ["checkpoint", "folder"])
def test_its_probabilities_are_the_modules_in_the_order_of_the_texts(
    trained: Path, best: Path, source: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(predictor, "WINDOW", 3)
    monkeypatch.setattr(predictor, "CPU_TOKENS", 12)
    texts = [*GOOD, *BAD]
    predict = Predictor(best if source == "checkpoint" else trained / "export", precision="32-true")
    assert predict.class_names == ["neg", "pos"]
    answers = predict(texts)
    for text, probs, answer in zip(texts, predict.stream(iter(texts)), answers, strict=True):
        wanted = expected(best, text).numpy()
        np.testing.assert_allclose(probs, wanted, rtol=0, atol=1e-6)
        assert (answer.label, answer.score) == (["neg", "pos"][wanted.argmax()], pytest.approx(wanted.max(), abs=1e-6))
        assert list(answer.probs.values()) == pytest.approx(wanted.tolist(), abs=1e-6)
    assert len({answer.score for answer in answers}) == len(texts)  # so that another order would be noticed


def test_a_text_longer_than_the_encoder_takes_is_cut(best: Path) -> None:
    predict = Predictor(best, precision="32-true")
    long, cut = predict(["great fun " * 50, "great fun " * 15])
    assert long.label == cut.label
    assert long.probs == pytest.approx(cut.probs, rel=1e-6)  # rows of a batch differ in the last bit on some CPUs


@pytest.mark.parametrize("texts", [["a", float("nan")], ["a", None], ["a", 7], ["a", " "], [("a", "b"), ("a", "")]])
def test_what_is_empty_or_not_text_is_named(best: Path, texts: list[Any]) -> None:
    with pytest.raises(UserError, match=r"Predictor: texts\[1\] is .*, which is empty or not text; leave it out"):
        Predictor(best)(texts)


def test_a_run_in_bfloat16_throughout_is_predicted_with(best: Path) -> None:
    [expected] = Predictor(best, precision="bf16-mixed")(["great fun"])
    assert Predictor(best, precision="bf16-true")(["great fun"]) == [expected]


def test_no_texts_are_no_predictions(best: Path) -> None:
    assert Predictor(best)([]) == []


def test_texts_may_come_from_an_iterator(best: Path) -> None:
    predict = Predictor(best)
    assert predict(text for text in ["great fun", "no fun"]) == predict(["great fun", "no fun"])


def test_a_shorter_max_length_of_training_is_kept(best: Path, tmp_path: Path) -> None:
    export.export(changed(best, tmp_path / "short.ckpt", data={"max_length": 4}), tmp_path / "short", {})
    for source in ("short.ckpt", "short"):
        one, other = Predictor(tmp_path / source)(["great fun no", "great fun awful"])
        assert one == other
    one, other = Predictor(tmp_path / "short.ckpt", max_length=5)(["great fun no", "great fun awful"])
    assert one != other


def test_what_it_does_not_take(tiny_bert: str, best: Path, trained: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(trained / "export", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    calls: list[tuple[str, Callable[[], object]]] = [
        ("give a list of texts", lambda: Predictor(best)("great fun")),
        ("device nowhere", lambda: Predictor(best, "nowhere")),
        (r"max_length 33: it must be between 3 and the encoder's 32", lambda: Predictor(best, max_length=33)),
        ("the folder has a model but no tokenizer", lambda: Predictor(bare)),
        (r"precision 64-true: to predict texts, it must be one of", lambda: Predictor(best, precision="64-true")),
        ("it has no trained classifier", lambda: Predictor(tiny_bert)),
        ("there is no such file", lambda: Predictor("nowhere")),
    ]
    for message, call in calls:
        with pytest.raises(UserError, match=message):
            call()


def test_probabilities_that_are_not_numbers_are_refused(best: Path, trained: Path, tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in read_safely(best)["state_dict"].items()}
    weights["model.classifier.bias"][0] = float("nan")
    path = changed(best, tmp_path / "nan.ckpt", state_dict=weights)
    with pytest.raises(UserError, match=r"nan.ckpt: a probability is not a finite number: its weights are not finite"):
        Predictor(path)(["great fun"])


def test_a_model_that_transformers_does_not_have_is_refused(best: Path, tmp_path: Path) -> None:
    path = changed(best, tmp_path / "a.ckpt", own_forward=True)
    for use in (Predictor, lambda path: export.export(path, tmp_path / "out", {})):
        with pytest.raises(UserError, match=r"a.ckpt: it was trained by a subclass of BertClassifier with a forward"):
            use(path)
