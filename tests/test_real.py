"""With the packaged sentences and the packaged BERT: what the README promises."""

import csv
import json
from pathlib import Path

import pytest
from conftest import CONFIGS, rows_of
from processes import run

from lit_bert.cli import BertCLI, main
from lit_bert.data import dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> BertCLI:
    """The packaged recipe, but for its third epoch."""
    words = ["--trainer.max_epochs=2", f"--trainer.default_root_dir={tmp_path_factory.mktemp('packaged')}"]
    return main(["fit", "--config", str(CONFIGS / "packaged.yaml"), *words])


def test_the_packaged_sentences_have_the_official_splits_and_labels() -> None:
    splits = dataset.load(dataset.fetch("packaged")[0])
    counts = {split: (len(rows), sum(rows["label"])) for split, rows in splits.items()}
    assert counts == {"train": (8485, 4234), "validation": (1058, 526), "test": (1062, 531)}
    assert splits["train"].features["label"].names == ["neg", "pos"]
    assert splits["train"]["text"][0].startswith("The Rock is destined to be the 21st Century's new ''Conan''")
    assert splits["train"]["label"][0] == 1
    assert not any("&amp;" in text for rows in splits.values() for text in rows["text"])


def test_the_packaged_recipe_learns_well_above_chance(fitted: BertCLI) -> None:
    assert [len(fitted.datamodule.splits[name]) for name in ("train", "val", "test")] == [1000, 1058, 1000]
    assert fitted.trainer.callback_metrics["test/acc"] > 0.7
    main(["predict", f"--ckpt_path={fitted.run_dir}/checkpoints/last.ckpt", "--data.test_rows=10"])
    assert len(rows_of(fitted.run_dir / "predictions.csv")) == 10


def test_any_number_of_ranks_gives_the_same_metrics_of_the_real_test_rows(fitted: BertCLI, tmp_path: Path) -> None:
    """1,062 are those of the package, 1,066 those of the Hub: neither can be shared evenly by 4 ranks."""
    checkpoint = tmp_path / "alone.ckpt"
    checkpoint.write_bytes((fitted.run_dir / "checkpoints" / "last.ckpt").read_bytes())
    splits = dataset.load(dataset.fetch("packaged")[0])
    for rows in (1062, 1066):
        (tmp_path / f"rows{rows}").mkdir()
        for split, found in splits.items():
            names, every = found.features["label"].names, 1 if split == "test" else 100
            pairs = zip(found["text"][::every], found["label"][::every], strict=True)
            table = [(text, names[label]) for text, label in pairs]
            with (tmp_path / f"rows{rows}" / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("text", "label"), *table, *table[: rows - 1062 if split == "test" else 0]])
    words = ["test", f"--ckpt_path={checkpoint}", "--data.test_rows=null", "--data.train_rows=null"]
    for ranks in (1, 4):
        first, second = (
            [*words, f"--data.dataset={tmp_path}/rows{rows}", f"--trainer.default_root_dir=ranks{ranks}/{rows}"]
            for rows in (1062, 1066)
        )
        run(first, tmp_path / "log", ranks, then=[second])
    for rows in (1062, 1066):
        found = sorted(Path().glob(f"ranks*/{rows}/*/metrics-test.json"))
        one, four = (json.loads(path.read_text())["test"] for path in found)
        assert one["rows"] == rows
        assert one == four
