"""How much each word adds to an answer."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Patch
from models import changed
from tokenizers import models, pre_tokenizers

from lit_bert import Predictor
from lit_bert.cli import main
from lit_bert.errors import UserError
from lit_bert.inference import explain as explain_module
from lit_bert.modeling import dropout
from lit_bert.modeling.checkpoint import read_safely


def retrained(path: Path, to: Path, **data: Any) -> Path:
    """A checkpoint whose data module was made with other settings, and whose classifier is surer of its answers."""
    weights = read_safely(path)["state_dict"]
    surer = {"model.classifier.weight": 40 * weights["model.classifier.weight"]}
    return changed(path, to, data=data, state_dict={**weights, **surer})


def change(predictor: Predictor, text: str | tuple[str, str]) -> float:
    """How far the probability of a text's class is from that of the same tokens, all masked."""
    encoded = predictor.encode([text]) if isinstance(text, str) else predictor.encode([text[0]], [text[1]])
    tokens = {name: torch.tensor(rows) for name, rows in encoded.items()}
    ids = tokens.pop("input_ids")
    masked = torch.where((ids == 2) | (ids == 3), ids, 4)  # [CLS] and [SEP]; [MASK]
    with torch.inference_mode():
        both = [predictor.model(given, **tokens).logits[0].softmax(dim=-1) for given in (ids, masked)]
    label = both[0].argmax()
    return float(both[0][label] - both[1][label])


@pytest.mark.parametrize(
    ("settings", "text", "words"),
    [
        ({}, "Great  fun, awful.", ["Great", "fun", ",", "awful", "."]),
        ({}, " ".join(["lovely film"] * 20), ["lovely", "film"] * 15),  # 30 words and two special tokens are kept
        ({"long_text": "head_tail", "max_length": 6}, "great fun no film of the year", "great of the year"),
        ({"text_pair_column": "other"}, ("great fun", "great awful"), "great fun great awful"),
        ({"text_pair_column": "other", "max_length": 6}, ("great fun no", "a cold"), "great fun a"),
    ],
    ids=["short", "cut", "head and tail", "pair", "pair that is cut"],
)
def test_what_words_add_is_the_change_of_the_probability(
    best: Path, tmp_path: Path, settings: dict[str, Any], text: str | tuple[str, str], words: Any
) -> None:
    predict = Predictor(retrained(best, tmp_path / "sure.ckpt", **settings), precision="32-true")
    [answer], [why] = predict([text]), predict.explain([text])
    assert [word.text for word in why.words] == (words.split() if isinstance(words, str) else words)
    assert (why.label, why.score) == (answer.label, answer.score)
    total = sum(word.score for word in why.words)
    assert total - why.error == pytest.approx(change(predict, text), abs=1e-5)
    assert abs(why.error) <= explain_module.TOLERANCE
    assert max(abs(word.score) for word in why.words) > 0.003


def test_a_word_of_several_pieces_has_their_sum(best: Path) -> None:
    predict = Predictor(best, precision="32-true")
    pieces = predict.explain(["great fun no"])[0].words
    tokenizer = predict.encode.tokenizer.backend_tokenizer
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # "funno" is one word, "fun" "##no"
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    tokenizer.model = models.WordPiece({**vocab, "##no": vocab["no"]}, unk_token="[UNK]")
    words = predict.explain(["great funno"])[0].words
    assert [word.text for word in words] == ["great", "funno"]
    assert words[1].score == pytest.approx(pieces[1].score + pieces[2].score)


def test_the_dropout_of_training_changes_nothing(best: Path) -> None:
    text = "a warm and funny film"
    plain, installed = Predictor(best, precision="32-true"), Predictor(best, precision="32-true")
    dropout.install(installed.model)
    assert installed.model.config._attn_implementation == dropout.ATTENTION
    for one, other in zip(plain.explain([text])[0].words, installed.explain([text])[0].words, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_explains_the_class_that_is_predicted_in_inference_mode_too(best: Path, precision: str) -> None:
    predict = Predictor(best, precision=precision)
    exact = Predictor(best, precision="32-true").explain(["no fun"])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        [why] = predict.explain(["no fun"])
    assert why.label == predict(["no fun"])[0].label
    assert [word.score for word in why.words] == pytest.approx([word.score for word in exact[0].words], abs=1e-5)


def test_predict_writes_words_and_what_they_add(best: Path) -> None:
    Path("a.txt").write_text("great fun\n\nawful\n")
    words = ["predict", f"--ckpt_path={best}", "--trainer.precision=32-true", "--input=a.txt", "--explain=true"]
    main([*words, "--output=out.jsonl"])
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["words"] for row in rows] == [["great", "fun"], None, ["awful"]]
    assert (rows[1]["attributions"], rows[1]["attribution_error"]) == (None, None)
    expected = Predictor(best, precision="32-true").explain(["great fun", "awful"])
    for row, why in zip((rows[0], rows[2]), expected, strict=True):
        assert row["attributions"] == pytest.approx([word.score for word in why.words], abs=1e-5)
        assert row["attribution_error"] == pytest.approx(why.error, abs=1e-5)


def test_without_captum_it_says_what_to_install(best: Path, monkeypatch: Patch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"explain: install what it needs with pip install '.\[explain\]'"):
        Predictor(best).explain(["great fun"])
