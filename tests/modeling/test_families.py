"""Every family of encoders that `transformers` has: its predictions are the same alone, in batches and in pipelines."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Capture
from models import piped
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoTokenizer,
    PreTrainedConfig,
)
from transformers.models.auto import modeling_auto

from lit_bert.cli import main
from lit_bert.errors import UserError
from lit_bert.inference.onnx import write_onnx
from lit_bert.inference.predictor import Predictor

SIZES: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "emb_dim", "dim", "d_model", "embedding_size", "d_latents", "pooler_hidden_size"), 32)
    | dict.fromkeys(("num_hidden_layers", "n_layers", "num_attention_heads", "n_heads", "num_key_value_heads"), 2)
    | dict.fromkeys(("intermediate_size", "hidden_dim", "d_inner", "max_position_embeddings", "true_hidden_size"), 64)
    | dict.fromkeys(("intra_bottleneck_size", "head_dim", "d_head"), 16)
    | {"attention_window": [4, 4], "block_sizes": [1, 1], "num_decoder_layers": 0, "entity_vocab_size": 10}
    | {"entity_emb_size": 8, "languages": ["en_XX"], "default_language": "en_XX", "axial_pos_embds": False}
    | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "global_attn_every_n_layers": 1}
)
TYPES = sorted(
    {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES}
    & {*modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES}
)
REFUSED = {
    **dict.fromkeys(("bart", "mbart", "mvp"), "is not an encoder"),
    **dict.fromkeys(("mra", "modernvbert", "perceiver", "tapas", "ultravbert"), "is not for texts alone"),
    **dict.fromkeys(("convbert", "fnet", "mobilebert", "nystromformer", "yoso"), "when a text is padded"),
}
TEXTS = ["a warm and funny film", "no fun", "the worst film of the year , awful and dull and boring and cold", "lovely"]


def make(kind: str, folder: Path, tokenizer: Any, **head: Any) -> Path:
    """Save a tiny classifier of a family, with weights that tell texts apart."""
    known = CONFIG_MAPPING[kind]()
    sizes = {**SIZES, "vocab_size": len(tokenizer), "n_words": len(tokenizer)}
    sizes = {name: value for name, value in sizes.items() if hasattr(known, name)}
    sizes.pop("num_hidden_layers" if kind == "funnel" else "", None)
    config: PreTrainedConfig = CONFIG_MAPPING[kind](**sizes, **head, id2label={0: "neg", 1: "pos"})
    torch.manual_seed(1)
    model = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)](config)
    for value in model.parameters():
        if value.dim() > 1:
            value.data.normal_(0, 0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SETTINGS: list[dict[str, Any]] = [
    {"problem_type": "regression"},
    {"problem_type": "multi_label_classification"},
    {"function_to_apply": "sigmoid"},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_an_inherited_setting_of_a_head_means_nothing(setting: dict[str, Any], tiny_bert: str, reviews: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert, padding_side="left", truncation_side="left")
    start = make("bert", Path("start"), tokenizer, **setting)
    words = [f"--model.pretrained=./{start}", f"--data.dataset={reviews}", "--trainer.precision=32-true"]
    run = main(["fit", *words, "--trainer.max_epochs=1", "--model.learning_rate=0.001"]).run_dir
    expected = [list(row.probs.values()) for row in Predictor(run / "export", precision="32-true")(TEXTS)]
    torch.testing.assert_close(piped(run / "export", TEXTS), torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.filterwarnings("ignore")
def test_a_text_alone_in_a_batch_and_in_a_pipeline(kind: str, tiny_bert: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert, model_input_names=["input_ids", "attention_mask"])
    if kind in REFUSED:
        tokenizer.save_pretrained(tmp_path / kind)
        CONFIG_MAPPING[kind]().save_pretrained(tmp_path / kind)
        with pytest.raises(UserError, match=rf"a {kind} model .*{REFUSED[kind]}"):
            Predictor(tmp_path / kind)
        return
    make(kind, tmp_path / kind, tokenizer)
    predictor = Predictor(tmp_path / kind, precision="32-true")
    together = torch.tensor([list(row.probs.values()) for row in predictor(TEXTS)])
    alone = torch.tensor([list(predictor([text])[0].probs.values()) for text in TEXTS])
    assert together.std(dim=0).max() > 1e-3
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    torch.testing.assert_close(piped(tmp_path / kind, TEXTS), together, rtol=0, atol=2e-5)


def test_an_encoder_that_has_to_be_told_more_than_a_text(tiny_bert: str, tmp_path: Path) -> None:
    folder = make("xmod", tmp_path / "xmod", AutoTokenizer.from_pretrained(tiny_bert))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "default_language": None}))
    with pytest.raises(UserError, match=r"a xmod encoder cannot be used for texts alone \(Input language unknown"):
        Predictor(folder)(TEXTS)


@pytest.mark.parametrize("kind", ["funnel", "longformer"])
@pytest.mark.filterwarnings("ignore")
def test_a_family_without_onnx_is_told_in_a_line(kind: str, tiny_bert: str, tmp_path: Path, capfd: Capture) -> None:
    folder = make(kind, tmp_path / kind, AutoTokenizer.from_pretrained(tiny_bert))
    model = Predictor(folder).model
    capfd.readouterr()
    with pytest.raises(UserError, match=rf"--onnx: a {kind} model cannot be exported \(") as error:
        write_onnx(model, tmp_path / "model.onnx", 32, pairs=False)
    assert len(str(error.value)) < 250
    assert capfd.readouterr() == ("", "")
