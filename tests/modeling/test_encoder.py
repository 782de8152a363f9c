import json
import shutil
from pathlib import Path

import pytest

from lit_bert.errors import UserError
from lit_bert.modeling.encoder import find_encoder, load_config, load_tokenizer


def test_folders_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--model.pretrained \./none: there is no such folder"):
        find_encoder("./none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the folder has no config.json"):
        find_encoder(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"a config.json but no weights"):
        find_encoder(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("name", "value"), [("num_hidden_layers", 10**9), ("num_labels", 10**8), ("vocab_size", 10**12)]
)
def test_a_config_of_absurd_size_is_refused_at_once(tiny_bert: str, tmp_path: Path, name: str, value: int) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "absurd"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(UserError, match=rf"absurd: its config.json says {name} {value:,}; no encoder has more than"):
        load_config(folder, "absurd")


def test_token_ids_beyond_the_encoders_are_refused(tiny_bert: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "beyond"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["awful"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"beyond: its tokenizer has 5001 tokens, its encoder \d+; they do not belong"):
        load_tokenizer(folder, "beyond")
