"""Checkpoints of older versions are read, or refused in one line."""

from pathlib import Path

import pytest
from conftest import Refused
from models import changed

from lit_bert import BertClassifier, Predictor
from lit_bert.cli import main
from lit_bert.errors import UserError


def test_options_that_are_gone(best: Path, refused: Refused) -> None:
    changed(best, "old.ckpt", model={"lora_rank": 0})
    assert Predictor("old.ckpt")(["great fun"]) == Predictor(best)(["great fun"])
    BertClassifier.load_from_checkpoint("old.ckpt", weights_only=True)
    main(["test", "--ckpt_path=old.ckpt"])
    changed(best, "windows.ckpt", model={"lora_rank": 0}, data={"long_text": "windows"})
    with pytest.raises(UserError, match=r"--data.long_text windows: it must be head or head_tail; train with one of"):
        Predictor("windows.ckpt")
    assert "long_text" in refused(["test", "--ckpt_path=windows.ckpt"]).splitlines()[-1]
