import json
from pathlib import Path

import pytest

from lit_bert.errors import UserError
from lit_bert.modeling.encoder import find_encoder


def test_folders_that_hold_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--model.pretrained \./none: there is no such folder"):
        find_encoder("./none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the folder has no config.json"):
        find_encoder(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=r"a config.json but no weights"):
        find_encoder(str(tmp_path / "empty"))
