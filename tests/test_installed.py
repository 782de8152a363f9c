"""A copy that is installed from a wheel has all that a clone has."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_a_wheel_fits_and_predicts_from_another_folder(tiny_bert: str, reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name in ("lit_bert", "configs", "pyproject.toml", "README.md", "LICENSE"):  # a build leaves files there
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "source" / name)
    source = str(tmp_path / "source")
    build = [sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--quiet", "--wheel-dir", str(tmp_path)]
    subprocess.run(build, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "lit_bert").rglob("*.py")}
    assert modules <= {str(file.relative_to(tmp_path / "site")) for file in (tmp_path / "site").rglob("*.py")}

    def run(*words: str) -> tuple[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        command = [sys.executable, "-m", "lit_bert", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "elsewhere", env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    (tmp_path / "elsewhere").mkdir()
    data = [f"--data.dataset={reviews}", f"--model.pretrained={tiny_bert}"]
    said, errors = run("fit", *data, "--trainer.max_epochs=1", "--name=own")
    assert errors.startswith("recipe   own_data.yaml: own data")
    assert errors.count("\n") == 1  # and no warning
    assert "Warning" not in said
    folder = tmp_path / "elsewhere" / "runs" / "own"
    recipe = yaml.safe_load((ROOT / "configs" / "own_data.yaml").read_text())
    found = yaml.safe_load((folder / "config.yaml").read_text())
    assert found["model"]["learning_rate"] == recipe["model"]["learning_rate"]
    run("predict", "--ckpt_path=best", f"--input={reviews}/test.csv", "--output=out.csv")
    assert len((tmp_path / "elsewhere" / "out.csv").read_text().splitlines()) == 31
    assert "usage: python -m lit_bert serve" in run("serve", "--help")[0]
