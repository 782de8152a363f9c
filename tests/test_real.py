"""With the packaged sentences and the packaged BERT: what the README promises."""

import csv

import pytest
from conftest import CONFIGS

from lit_bert import dataset
from lit_bert.cli import main

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
