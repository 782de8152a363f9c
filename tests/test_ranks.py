"""Any number of ranks gives the same numbers."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from processes import run

from lit_bert import checkpoints


@pytest.fixture
def still(recipe: str, still_bert: str) -> str:
    """The recipe, without dropout."""
    config = yaml.safe_load(Path(recipe).read_text())
    config["model"]["pretrained"] = still_bert
    config["data"]["batch_size"] = 18  # 40 rows: the last step has 4, of which 3 ranks do not get equally many
    Path(recipe).write_text(yaml.safe_dump(config))
    return recipe


def weights(root: str) -> dict[str, torch.Tensor]:
    [path] = Path(root).glob("*/checkpoints/last.ckpt")
    return {k: v for k, v in checkpoints.read(path)["state_dict"].items() if "key.bias" not in k}


def test_ranks_and_accumulation_train_alike(still: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["fit", "--config", still, "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]
    run([*words, "--trainer.default_root_dir=one"], log)
    expected = weights("one")
    for ranks, size, accumulate in ((2, 9, 1), (3, 6, 1), (3, 3, 2)):
        root = f"--trainer.default_root_dir={ranks}x{size}"
        run([*words, root, f"--data.batch_size={size}", f"--trainer.accumulate_grad_batches={accumulate}"], log, ranks)
        for name, value in weights(f"{ranks}x{size}").items():
            torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4, msg=f"{ranks} {name}")


def test_evaluation_and_prediction_are_equal_to_the_last_bit(recipe: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run(["fit", "--config", recipe, "--test_after_fit=false"], log)
    [path] = Path("runs").glob("*/checkpoints/last.ckpt")
    moved = path.rename("alone.ckpt")  # each command makes a folder of its own
    found = []
    for ranks in (1, 2, 3):
        for command in ("test", "predict"):
            words = [command, f"--ckpt_path={moved}", f"--trainer.default_root_dir={command}{ranks}"]
            run(
                [*words, "--data.eval_batch_size=7"], log, ranks
            )  # 30 rows: 5 batches, which 2 and 3 ranks share unevenly
        [metrics] = Path(f"test{ranks}").glob("*/metrics-test.json")
        [predictions] = Path(f"predict{ranks}").glob("*/predictions.csv")
        found.append((json.loads(metrics.read_text())["test"], predictions.read_text()))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["rows"] == 30
    assert len(found[0][1].splitlines()) == 31
