"""Checkpoints of older versions are read, or refused in one line."""

from pathlib import Path

import pytest
import torch

from lit_bert import BertClassifier, Predictor
from lit_bert.cli import main
from lit_bert.errors import UserError


def test_options_that_are_gone(best: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = torch.load(best, weights_only=True)
    content["hyper_parameters"]["lora_rank"] = 0
    torch.save(content, "old.ckpt")
    assert Predictor("old.ckpt")(["great fun"]) == Predictor(best)(["great fun"])
    BertClassifier.load_from_checkpoint("old.ckpt", weights_only=True)
    main(["test", "--ckpt_path=old.ckpt"])
    content["datamodule_hyper_parameters"]["long_text"] = "windows"
    torch.save(content, "windows.ckpt")
    with pytest.raises(UserError, match=r"--data.long_text windows: it must be head or head_tail"):
        Predictor("windows.ckpt")
    with pytest.raises(SystemExit):
        main(["test", "--ckpt_path=windows.ckpt"])
    assert "long_text" in capsys.readouterr().err.splitlines()[-1]
