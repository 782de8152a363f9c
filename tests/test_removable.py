"""What is not the heart's can be taken away: `fit` runs without any room, and without any callback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_bert, make_recipe, make_reviews

ROOT = Path(__file__).parent.parent
ROOMS = ["study", "evaluation", "inference", "inference/server.py", "inference/page.html", "evaluation/figures.py"]
ROOMS += ["serve.py", "export.py", "compare.py", "callbacks"]
CALLBACKS = [
    f"callbacks/{file.name}"
    for file in sorted((ROOT / "lit_bert/callbacks").glob("*.py"))
    if file.name != "__init__.py"
]
HEART = ("module.py", "datamodule.py", "cli.py")


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of the logs, and exit codes by what was taken away."""
    folder = tmp_path_factory.mktemp("removal")
    recipe = make_recipe(folder / "smoke.yaml", make_bert(folder / "bert"), make_reviews(folder / "reviews"))
    script = Path(__file__).parent / "helpers" / "removal.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, str(script), recipe, str(folder), *ROOMS, *CALLBACKS]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment, cwd=folder)
    return folder, {piece: code for code, piece in (line.split() for line in done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("piece", [*ROOMS, *CALLBACKS])
def test_fit_runs_without(codes: tuple[Path, dict[str, str]], piece: str) -> None:
    folder, by_piece = codes
    name = piece.replace("/", "-")
    assert by_piece[piece] == "0", (folder / f"{name}.log").read_text()
    [run] = (folder / name / "runs").iterdir()
    assert list(run.glob("checkpoints/epoch=*.ckpt"))
    assert (run / "metrics.json").is_file() == (piece != "evaluation")


@pytest.mark.parametrize("file", HEART)
def test_the_heart_imports_no_callback_and_no_room_above_it(file: str) -> None:
    text = (ROOT / "lit_bert" / file).read_text()
    above = ("callbacks", "evaluation", "inference", "study")
    assert not [room for room in above if f"lit_bert.{room}" in text]
    if file != "cli.py":
        assert "lit_bert.run" not in text
