import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, Patch
from lightning.pytorch import Trainer
from models import weights_of
from transformers import AutoTokenizer, DebertaV2Config, XLMConfig, XLMForSequenceClassification

from lit_bert import BertClassifier, TextClassificationDataModule
from lit_bert.errors import UserError
from lit_bert.modeling.freezing import freeze_layers
from lit_bert.modeling.tokenizer import find_tokenizer, load_tokenizer


def test_token_ids_beyond_the_encoders_are_refused(tiny_bert: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "beyond"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["awful"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"beyond: its tokenizer has 5001 tokens, its encoder \d+; they do not belong"):
        load_tokenizer(folder, "beyond")


def test_the_tokenizer_of_a_checkpoint_with_any_name(best: Path, tmp_path: Path) -> None:
    copy = shutil.copy(best, tmp_path / "model.pt")
    assert find_tokenizer(str(copy)).get_vocab() == find_tokenizer(str(best)).get_vocab()


def test_a_tokenizer_of_its_own_suffices_for_data(tiny_bert: str, reviews: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(tiny_bert, model_max_length=10**30).save_pretrained(tmp_path / "own")
    data = TextClassificationDataModule(str(reviews), str(tmp_path / "own"))
    data.prepare_data()
    data.setup("fit")
    assert (data.content.max_length, len(data.splits["train"])) == (512, 40)
    with pytest.raises(UserError, match=r"own: the folder has no config.json"):
        BertClassifier(str(tmp_path / "own"))


def test_a_vocabulary_that_needs_sentencepiece(tiny_bert: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("lit_bert.modeling.tokenizer.find_spec", lambda name: None)
    folder = tmp_path / "deberta"
    DebertaV2Config(vocab_size=60).save_pretrained(folder)
    (folder / "spm.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"its vocabulary needs sentencepiece: pip install '.\[sentencepiece\]'"):
        load_tokenizer(folder, "deberta")


def test_all_parts_of_a_layer_are_frozen() -> None:
    config = XLMConfig(vocab_size=20, emb_dim=16, n_layers=3, n_heads=2, max_position_embeddings=8)
    model = XLMForSequenceClassification(config)
    freeze_layers(model, 2)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name.partition(".2.")[0] for name in trained} == {
        *(f"transformer.{part}" for part in ("attentions", "layer_norm1", "ffns", "layer_norm2")),
        *("sequence_summary.summary.weight", "sequence_summary.summary.bias"),
    }


def test_frozen_layers_stay_as_they_are_and_the_others_learn(tiny_bert: str, data: Any) -> None:
    model = BertClassifier(tiny_bert, frozen_layers=1, learning_rate=0.01, weight_decay=0.1)
    before = weights_of(model.model)
    Trainer(max_epochs=1, limit_val_batches=0, **QUIET).fit(model, data)
    changed = {name for name, value in model.model.named_parameters() if not torch.equal(value, before[name])}
    assert "classifier.weight" in changed
    assert not any(".embeddings." in name or ".layer.0." in name for name in changed)
    assert any(".layer.1." in name for name in changed)
    with pytest.raises(UserError, match=r"--model.frozen_layers 99: it must be between 0 and the encoder's 2"):
        BertClassifier(tiny_bert, frozen_layers=99)
