"""Which recipe runs, with a Hub and without: what is fetched is used, kept, and not asked for again."""

import os
import time
from pathlib import Path

import pytest
from conftest import CONFIGS, HUB_PORT, Patch
from datasets import ClassLabel, Features, Value, load_dataset
from equality import same
from hub import Hub
from huggingface_hub import constants
from models import weights_of
from processes import CONTEXT, finish

from lit_bert.cli import main
from lit_bert.errors import UserError
from lit_bert.modeling.encoder import find_encoder
from lit_bert.run.recipe import default_recipe

MODEL, DATA = "google-bert/bert-base-cased", "cornell-movie-review-data/rotten_tomatoes"
FEW_ROWS = ["--data.train_rows=16", "--data.test_rows=8", "--trainer.max_epochs=1"]


@pytest.fixture
def rotten_tomatoes(hub: Hub, tiny_bert: str, reviews: Path, tmp_path: Path) -> Hub:
    """A Hub that has the two repositories: the tiny BERT, and the rows as Parquet with class names."""
    folder = tmp_path / "rotten_tomatoes"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n")
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    for split in ("train", "validation", "test"):
        rows = load_dataset("csv", data_files=str(reviews / f"{split}.csv"), split="train")
        rows.cast(features).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    hub.repos |= {f"models/{MODEL}": Path(tiny_bert), f"datasets/{DATA}": folder}
    return hub


def test_fits_from_the_hub_by_default_then_from_its_cache_alone(rotten_tomatoes: Hub, capsys) -> None:
    cli = main(["fit", *FEW_ROWS])
    assert "recipe   bert_base_cased.yaml: the Hugging Face Hub answers" in capsys.readouterr().err
    assert (cli.config.fit.model.pretrained, cli.config.fit.data.dataset) == (MODEL, DATA)
    assert cli.datamodule.class_names == ["neg", "pos"]
    assert not [path for path in rotten_tomatoes.asked if path.endswith(".bin")]

    rotten_tomatoes.asked.clear()
    del os.environ["LIT_BERT_RECIPE"]
    again = main(["fit", *FEW_ROWS])
    assert "its files are in the Hugging Face cache" in capsys.readouterr().err
    assert rotten_tomatoes.asked == []
    same(weights_of(cli.model), weights_of(again.model))

    main(["test", f"--ckpt_path={cli.run_dir}/checkpoints/last.ckpt"])
    assert rotten_tomatoes.asked == []


def test_without_a_hub_an_explicit_choice_is_an_error_and_none_is_the_packaged_recipe() -> None:
    with pytest.raises(UserError, match=r"--model.pretrained some/bert: not in the .* cache, and the Hub .* reached"):
        find_encoder("some/bert")
    config, why = default_recipe()
    assert config == CONFIGS / "packaged.yaml"
    assert why.startswith("the Hugging Face Hub is out of reach")


def test_a_hub_that_accepts_and_never_answers(hub: Hub, monkeypatch: Patch) -> None:
    hub.silent = True
    monkeypatch.setattr("lit_bert.data.hub.HUB_SECONDS", 0.2)
    config, why = default_recipe()
    assert config == CONFIGS / "packaged.yaml"
    assert "no answer within 0.2 s" in why


def decide(variables: dict[str, str], endpoint: str) -> None:
    """Write down which recipe a rank runs, which asks some Hub, and end when both have."""
    os.environ |= variables
    constants.ENDPOINT = endpoint
    Path(f"rank{variables['RANK']}").write_text(default_recipe()[0].name)
    while len(list(Path().glob("rank*"))) < 2:
        time.sleep(0.02)


def test_ranks_of_one_job_agree_though_one_alone_reaches_the_hub(rotten_tomatoes: Hub) -> None:
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(HUB_PORT + 1)}
    launched |= {"GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "one"}
    ranks = []
    for rank, endpoint in (("0", os.environ["HF_ENDPOINT"]), ("1", "http://127.0.0.1:9")):
        own = {**launched, "RANK": rank, "LOCAL_RANK": rank}
        ranks.append(CONTEXT.Process(target=decide, args=(own, endpoint)))
        ranks[-1].start()
    assert finish(ranks) == [0, 0]
    assert [Path(f"rank{rank}").read_text() for rank in (0, 1)] == ["bert_base_cased.yaml"] * 2
