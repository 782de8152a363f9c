from pathlib import Path

import pytest

from lit_bert.errors import UserError
from lit_bert.files import next_free_path
from lit_bert.run import run_dir


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    folders = {run_dir.create_run_dir(tmp_path / "runs", "tiny") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.name.startswith("tiny_20") for folder in folders)


def test_only_a_folder_without_results_is_given_back(tmp_path: Path) -> None:
    empty, used, trained = (run_dir.create_run_dir(tmp_path, name) for name in ("empty", "used", "trained"))
    for folder in (empty, used, trained):
        (folder / "config.yaml").touch()
    (used / "metrics.json").touch()
    for folder in (empty, used, trained, tmp_path / "none"):
        opened = run_dir.RunDir(folder, is_new=True)
        if folder == trained:
            opened.keep()
        opened.remove_if_empty()
    assert not empty.exists()
    assert trained.exists()
    assert {file.name for file in used.iterdir()} == {"config.yaml", "metrics.json"}


def test_the_owner_of_a_checkpoint_has_a_config(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert run_dir.run_dir_of(checkpoint) is None
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert run_dir.run_dir_of(checkpoint) == tmp_path / "run"
    assert run_dir.run_dir_of(None) is None


def test_older_results_keep_their_names(tmp_path: Path) -> None:
    for name in ("a.csv", "a-2.csv", "a-3.csv"):
        path = next_free_path(tmp_path / "a.csv")
        assert path.name == name
        path.touch()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    held = run_dir.lock(tmp_path)
    with pytest.raises(UserError, match=r"another process trains in this folder \(it holds .lock\)"):
        run_dir.lock(tmp_path)
    held.release()
    run_dir.lock(tmp_path).release()
