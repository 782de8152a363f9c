"""With a Hub: what is fetched from it is kept, and not asked for again."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import Patch
from hub import Hub

from lit_bert.data import dataset
from lit_bert.data.hub import fetch_from_hub, find_in_cache, has_weights, is_hub_id, query_hub
from lit_bert.errors import UserError

COUNTS = {"train": 40, "validation": 20, "test": 30}


def test_a_data_set_is_fetched_once(hub: Hub, reviews: Path) -> None:
    hub.repos["datasets/some/reviews"] = reviews
    location, digest = dataset.fetch("some/reviews")
    assert {split: len(rows) for split, rows in dataset.load(location).items()} == COUNTS
    assert Path(str(location)).name == digest
    hub.asked.clear()
    assert dataset.fetch("some/reviews") == (location, digest)
    assert hub.asked == []


@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".jsonl.xz"])
def test_data_sets_of_all_formats_are_fetched(hub: Hub, tmp_path: Path, suffix: str) -> None:
    for split in COUNTS:
        frame = pd.DataFrame({"text": ["fine", "dull"], "label": ["pos", "neg"]})
        path = tmp_path / "repo" / f"{split}{suffix}"
        path.parent.mkdir(exist_ok=True)
        if "json" in suffix:
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_csv(path, index=False, sep="\t" if "tsv" in suffix else ",")
    name = f"some/{suffix[1:]}"  # the client remembers what a commit of a repository has
    hub.repos[f"datasets/{name}"] = tmp_path / "repo"
    location, _ = dataset.fetch(name)
    assert {split: len(rows) for split, rows in dataset.load(location).items()} == dict.fromkeys(COUNTS, 2)


def test_pickled_weights_are_fetched_only_where_there_are_no_others(hub: Hub, tiny_bert: str) -> None:
    hub.repos["models/some/bert"] = Path(tiny_bert)
    assert find_in_cache("some/bert", "model") is None
    folder = fetch_from_hub("some/bert", "model")
    assert not [path for path in hub.asked if path.endswith(".bin")]
    assert find_in_cache("some/bert", "model") == folder


def test_a_gated_an_unknown_and_a_misspelt_repository(hub: Hub) -> None:
    hub.gated.add("models/meta/secret-bert")
    for name, message in (
        ("meta/secret-bert", "this model is gated; ask for access at"),
        ("google-bert/bert-bas", "the Hub .* has no such model"),
        ("bert bas", ".* no such model"),
    ):
        with pytest.raises(UserError, match=f"--model.pretrained {name}: {message}"):
            fetch_from_hub(name, "model")
    with pytest.raises(UserError, match=r"--data.dataset some/data: the Hub .* has no such dataset"):
        dataset.fetch("some/data")


def test_a_hub_that_accepts_and_never_answers(hub: Hub, monkeypatch: Patch) -> None:
    hub.silent = True
    monkeypatch.setattr("lit_bert.data.hub.HUB_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match=r"no answer within 0.2 s"):
        query_hub("some/bert", "model")


def test_a_download_that_breaks_off_is_taken_up_again(hub: Hub, tiny_bert: str) -> None:
    hub.repos["models/some/bert"] = Path(tiny_bert)
    hub.breaks_off = True
    with pytest.raises(UserError, match=r"--model.pretrained some/bert: "):
        fetch_from_hub("some/bert", "model")
    hub.breaks_off = False
    assert has_weights(fetch_from_hub("some/bert", "model"))


def test_a_pinned_revision_is_what_is_asked_for_and_kept(hub: Hub, tiny_bert: str) -> None:
    hub.repos["models/some/bert"] = Path(tiny_bert)
    folder = fetch_from_hub("some/bert@v2", "model")
    assert [path for path in hub.asked if "/revision/v2" in path]
    assert not [path for path in hub.asked if "/main" in path]
    hub.asked.clear()
    assert fetch_from_hub("some/bert@v2", "model") == folder
    assert hub.asked == []
    with pytest.raises(UserError, match=r"--model.pretrained some/bert@no-such-tag: .* no such revision of this model"):
        fetch_from_hub("some/bert@no-such-tag", "model")


def test_which_names_can_be_hub_ids() -> None:
    assert all(map(is_hub_id, ["bert-base-cased", "owner/name", "owner/name@v1", "owner/name@refs/pr/1", "bert bas"]))
    assert not any(map(is_hub_id, ["./name", "../name", "/owner/name", "~/name", "a/b/c", "a/b/c@v1"]))


@pytest.mark.parametrize(
    ("index", "whole"),
    [
        ({"weight_map": {"a": "one.safetensors"}}, True),
        ({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}, False),
        ({"weight_map": [1]}, False),
        ([], False),
    ],
)
def test_an_index_of_weights(tmp_path: Path, index: object, whole: bool) -> None:
    (tmp_path / "one.safetensors").touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert has_weights(tmp_path) is whole
