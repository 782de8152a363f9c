import contextlib
from pathlib import Path

import pytest
from jsonargparse import Namespace

from lit_bert.errors import UserError
from lit_bert.files import next_free_path
from lit_bert.run import run_dir


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    folders = {run_dir.create_run_dir(tmp_path / "runs", "tiny") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.name.startswith("tiny_20") for folder in folders)


@pytest.mark.parametrize(("file", "kept"), [("events.out", False), ("metrics.json", True), ("provenance.json", True)])
def test_only_a_folder_without_results_is_given_back(tmp_path: Path, file: str, kept: bool) -> None:
    settings = Namespace(trainer=Namespace(default_root_dir=tmp_path, fast_dev_run=False), ckpt_path=None, name="one")
    settings.data = Namespace(dataset="packaged")
    with contextlib.suppress(KeyError), run_dir.open_run_dir("test", settings, "tiny", "a: 1\n") as folder:
        (folder / file).touch()
        raise KeyError
    assert {path.name for path in tmp_path.glob("*/*")} == ({"config.yaml", file} if kept else set())
    assert (tmp_path / "one").exists() == kept


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
