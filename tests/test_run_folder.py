from pathlib import Path

import pytest

from lit_bert import run_folder
from lit_bert.errors import UserError


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    folders = {run_folder.claim(tmp_path / "runs", "tiny") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.name.startswith("tiny_20") for folder in folders)


def test_only_a_folder_without_results_is_given_back(tmp_path: Path) -> None:
    empty, used = (run_folder.claim(tmp_path, name) for name in ("empty", "used"))
    for folder in (empty, used):
        (folder / "config.yaml").touch()
    (used / "metrics.json").touch()
    for folder in (empty, used, tmp_path / "none"):
        run_folder.discard(folder)
    assert not empty.exists()
    assert {file.name for file in used.iterdir()} == {"config.yaml", "metrics.json"}


def test_the_owner_of_a_checkpoint_has_a_config(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert run_folder.owner(checkpoint) is None
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert run_folder.owner(checkpoint) == tmp_path / "run"
    assert run_folder.owner(None) is None


def test_older_results_keep_their_names(tmp_path: Path) -> None:
    for name in ("a.csv", "a-2.csv", "a-3.csv"):
        path = run_folder.unused(tmp_path / "a.csv")
        assert path.name == name
        path.touch()


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--trainer.default_root_dir .*file: cannot be written"):
        run_folder.claim(tmp_path / "file", "tiny")
