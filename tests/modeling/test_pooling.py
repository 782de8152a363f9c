from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET
from equality import same
from lightning.pytorch import Trainer
from models import weights_of
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForMaskedLM

from lit_bert import BertClassifier, Predictor
from lit_bert.errors import UserError
from lit_bert.inference.export import export


def test_its_first_token_begins_as_the_mean_of_all_tokens(tiny_bert: str) -> None:
    torch.manual_seed(0)
    model = BertClassifier(tiny_bert, pooling="mean").model.eval()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        states = model.bert(torch.tensor([[2, 5, 6, 3], [2, 7, 0, 0]]), mask, output_hidden_states=True).hidden_states
    before, after = states[-2], states[-1]
    for row, tokens in ((0, 4), (1, 2)):
        mean = before[row, :tokens].mean(dim=0)
        expected = F.layer_norm(before[row, 0] + 10 * mean, mean.shape)
        torch.testing.assert_close(after[row, 0], expected, atol=1e-4, rtol=1e-3)
    assert len(states) == len(BertClassifier(tiny_bert).model.bert.encoder.layer) + 2


def test_checkpoints_and_exports_are_ordinary_berts(tiny_bert: str, tmp_path: Path, data: Any) -> None:
    model = BertClassifier(tiny_bert, pooling="mean", learning_rate=0.003)
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(model, data)
    checkpoint = tmp_path / "mean.ckpt"
    trainer.save_checkpoint(checkpoint)
    same(weights_of(BertClassifier.load_from_checkpoint(checkpoint)), weights_of(model))
    export(checkpoint, tmp_path / "export", {})
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export")
    assert loaded.config.num_hidden_layers == model.model.config.num_hidden_layers
    texts = ["a warm and funny film", "no fun"]
    assert Predictor(tmp_path / "export")(texts) == Predictor(checkpoint)(texts)
    further = BertClassifier(str(tmp_path / "export"), pooling="mean")  # to be trained on, or adapted
    assert further.model.config.num_hidden_layers == loaded.config.num_hidden_layers


def test_only_a_bert_can_have_it(tiny_bert: str, tmp_path: Path) -> None:
    config = RobertaConfig(vocab_size=60, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    for file in Path(tiny_bert).glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"--model.pooling mean: .* is a roberta model"):
        BertClassifier(str(tmp_path), pooling="mean")
