from pathlib import Path

import pytest
from conftest import Capture, Patch, Refused
from hub import Hub

from lit_bert.errors import UserError
from lit_bert.export import main
from lit_bert.inference.upload import push_to_hub


@pytest.fixture
def exported(trained: Path) -> Path:
    return trained / "export"


@pytest.mark.parametrize("public", [False, True])
def test_an_export_becomes_a_repository(hub: Hub, exported: Path, monkeypatch: Patch, public: bool) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert push_to_hub(exported, "me/reviews", public).endswith("/me/reviews")
    asked = hub.created["me/reviews"]
    assert (asked.get("private") is False or asked.get("visibility") == "public") is public
    assert hub.uploads["me/reviews"] == {path.name: path.read_bytes() for path in exported.iterdir()}
    suffixes = {Path(name).suffix for name in hub.uploads["me/reviews"]}
    assert suffixes <= {".safetensors", ".json", ".txt", ".md", ""}


def test_mistakes_leave_the_folder(hub: Hub, exported: Path, monkeypatch: Patch) -> None:
    files = sorted(exported.iterdir())
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(UserError, match=r"--push_to_hub me/reviews: .*401.*hf auth login"):
        push_to_hub(exported, "me/reviews", public=False)
    with pytest.raises(UserError, match="give owner/name"):
        push_to_hub(exported, "me/a b", public=False)
    assert hub.uploads == {}
    assert sorted(exported.iterdir()) == files


def test_the_command_exports_and_uploads(
    hub: Hub, tmp_path: Path, monkeypatch: Patch, capsys: Capture, best: Path, refused: Refused
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    words = ["--ckpt_path", str(best), "--to", str(tmp_path / "model")]
    main([*words, "--push_to_hub", "me/reviews"])
    assert "model.safetensors" in hub.uploads["me/reviews"]
    assert capsys.readouterr().out.splitlines()[-1].endswith("/me/reviews")
    assert "--public: it is for --push_to_hub" in refused([*words, "--public"], command=main)
