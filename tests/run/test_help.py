"""What a command answers before torch and Lightning are imported, which takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Stopped
from lightning.pytorch.cli import LightningCLI

from lit_bert.run.help import COMMANDS

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("torch", "lightning", "transformers", "optuna", "fastapi")


def answered(program: str, *words: str) -> tuple[int, str, str]:
    """Run a module, or a script, where none of those can be imported; return status, output and errors."""
    run = f"run_path({program!r}" if program.endswith(".py") else f"run_module({program!r}, alter_sys=True"
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({HEAVY})); runpy.{run}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["export", "serve", "study", "compare"])
def test_help_of_a_command_is_there_at_once(command: str) -> None:
    status, page, errors = answered("lit_bert", command, "--help")
    assert (status, errors) == (0, "")
    assert page.startswith(f"usage: python -m lit_bert {command} ")
    assert answered(f"lit_bert.{command}", "--help") == (0, page, "")


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        ("lit_bert.export", ["--ckpt_path=x", "--to=y", "--force"], "error: --force: it is for --int8"),
        ("lit_bert.serve", ["--ckpt_path=x", "--port=80"], "error: --port 80: it must be between 1024 and 65535"),
        ("lit_bert.study", ["--seeds=two"], "python -m lit_bert study: error: argument --seeds: invalid PositiveInt"),
    ],
)
def test_a_mistake_is_told_at_once(module: str, words: list[str], message: str) -> None:
    status, page, errors = answered(module, *words)
    assert (status, page) == (2, "")
    assert errors.splitlines()[-1].startswith(message)


@pytest.mark.slow
def test_no_print_can_cost_a_result(recipe: str, tmp_path: Path) -> None:
    """Standard output that has neither a reader nor an alphabet for what is printed."""
    (tmp_path / "reviews").rename(tmp_path / "\u00e9t\u00e9")
    data = f"--data.dataset={tmp_path}/\u00e9t\u00e9"
    words = [sys.executable, str(ROOT / "train.py"), "fit", "--config", recipe, data]
    reading, writing = os.pipe()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = subprocess.Popen(words, stdout=writing, env=environment)
    os.close(writing)
    assert os.read(reading, 4) == b"data"
    os.close(reading)
    assert process.wait(120) == 0
    [run] = (tmp_path / "runs").iterdir()
    assert (run / "metrics.json").is_file()
    assert (run / "export").is_dir()


@pytest.mark.parametrize("program", ["train.py", "lit_bert"])
def test_the_page_above_all_commands(program: str) -> None:
    status, page, errors = answered(program, "--help")
    assert (status, errors) == (0, "")
    call = "python train.py" if program.endswith(".py") else "python -m lit_bert"
    assert page.startswith(f"usage: {call} COMMAND")
    assert all(f"  {name} " in page for name in COMMANDS)
    assert max(map(len, page.splitlines())) <= 100
    assert answered(program) == (2, "", page)
    status, nothing, errors = answered(program, "fti")
    assert (status, nothing) == (2, "")
    assert errors.splitlines()[0] == f"error: fti: the commands are {', '.join(COMMANDS)}; did you mean fit?"


def test_the_page_has_all_commands_there_are(stopped: Stopped) -> None:
    assert LightningCLI.subcommands().keys() <= COMMANDS.keys()
    files = {path.stem for path in (ROOT / "lit_bert").glob("*.py") if "import argparse" in path.read_text()}
    assert COMMANDS.keys() - LightningCLI.subcommands().keys() == files | {"study"}
    assert "Commands:" in stopped(["--help"])
