import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import Hostile, Patch

from lit_bert.errors import UserError
from lit_bert.modeling.checkpoint import Checkpoint
from lit_bert.run.checkpoint_io import AtomicCheckpointIO, find_newest_checkpoint

WHOLE = {
    "state_dict": {"weight": torch.ones(3)},
    "hyper_parameters": {"pretrained": "x", "encoder_config": {"model_type": "bert"}},
    "epoch": 1,
    "global_step": 2,
}


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(WHOLE, tmp_path / "new" / "a.ckpt")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.ckpt"]
    torch.testing.assert_close(Checkpoint.read(tmp_path / "new" / "a.ckpt").state_dict, WHOLE["state_dict"])


def test_a_write_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(WHOLE, path)
    before = path.read_bytes()

    def full(checkpoint: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*a.ckpt: No space left on device"):
        AtomicCheckpointIO().save_checkpoint({}, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_a_target_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*a.ckpt"):
        AtomicCheckpointIO().save_checkpoint(WHOLE, tmp_path / "file" / "a.ckpt")


def test_what_is_no_checkpoint_is_refused_and_nothing_in_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    AtomicCheckpointIO().save_checkpoint(WHOLE, path)
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Hostile()))
    torch.save({**WHOLE, "hyper_parameters": Hostile()}, tmp_path / "hostile.ckpt")
    torch.save({"weight": torch.ones(3)}, tmp_path / "other.ckpt")
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as archive:
        archive.writestr("hello", "world")
    for name, message in (
        ("none.ckpt", r"none.ckpt: there is no such file; the newest other there is .*\.ckpt"),
        ("cut.ckpt", "not a checkpoint, or one that was cut short"),
        ("empty.ckpt", "not a checkpoint, or one that was cut short"),
        ("plain.ckpt", "not a checkpoint, or one that was cut short"),
        ("hostile.ckpt", "hostile.ckpt: refused"),
        ("other.ckpt", "not a checkpoint of BertClassifier"),
        ("zip.ckpt", "zip.ckpt: cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            Checkpoint.read(tmp_path / name)
    assert not Path("ran").exists()


def test_the_newest_is_last_ckpt_of_the_newest_folder_if_it_can_be_read(tmp_path: Path) -> None:
    """A run killed between its best checkpoint and `last.ckpt` goes on from the latter."""
    for age, name in enumerate(["new/epoch=2.ckpt", "new/last.ckpt", "new/epoch=1.ckpt", "old/last.ckpt"]):
        AtomicCheckpointIO().save_checkpoint(WHOLE, tmp_path / name)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    folders = [tmp_path / "old", tmp_path / "none", tmp_path / "new"]
    assert find_newest_checkpoint(folders).path == tmp_path / "new" / "last.ckpt"
    os.truncate(tmp_path / "new" / "last.ckpt", 10)
    assert find_newest_checkpoint(folders).path == tmp_path / "new" / "epoch=2.ckpt"
    for name in ("epoch=1.ckpt", "epoch=2.ckpt"):
        os.truncate(tmp_path / "new" / name, 0)
    assert find_newest_checkpoint(folders).path == tmp_path / "old" / "last.ckpt"
    assert find_newest_checkpoint([tmp_path / "none"]) is None


def damaged(path: Path, how: str) -> None:
    """Damage a checkpoint's content, but not its archive's table of contents."""
    with zipfile.ZipFile(path) as archive:
        [entry] = [entry for entry in archive.infolist() if entry.filename.endswith("data/0")]
        files = {name: archive.read(name) for name in archive.namelist()}
    if how == "zeroed":
        with path.open("r+b") as file:
            content = file.read()
            place = content.index(torch.full((1000,), 1.5).numpy().tobytes(), entry.header_offset)
            file.seek(place + 400)
            file.write(bytes(100))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)


@pytest.mark.parametrize("how", ["zeroed", "packed anew"])
def test_damage_within_a_tensor_is_noticed(tmp_path: Path, how: str) -> None:
    for name in ("last.ckpt", "epoch=1.ckpt"):
        AtomicCheckpointIO().save_checkpoint({**WHOLE, "state_dict": {"w": torch.full((1000,), 1.5)}}, tmp_path / name)
    os.utime(tmp_path / "epoch=1.ckpt", (1000, 1000))
    damaged(tmp_path / "last.ckpt", how)
    with pytest.raises(UserError, match=r"last.ckpt: cannot be read \(.*\); the newest other there is .*epoch=1.ckpt"):
        Checkpoint.read(tmp_path / "last.ckpt")
    assert find_newest_checkpoint([tmp_path]).path == tmp_path / "epoch=1.ckpt"
