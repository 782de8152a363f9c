"""What the package uses of other libraries' insides: it is still there, it is little, and CONTRIBUTING.md lists it."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from conftest import make_bert
from jsonargparse import ArgumentParser
from lightning.fabric.utilities import types
from lightning.pytorch import LightningModule, Trainer
from transformers import AutoConfig

ROOT = Path(__file__).parent.parent
USED = {
    "_attn_implementation": {"modeling/dropout.py", "modeling/encoder.py", "modeling/forward.py"},
    "_broadcast_sigterm_tensor": {"callbacks/preemption.py"},
    "_name_parser_map": {"run/parser.py"},
    "_option_string_actions": {"run/parser.py"},
    "_PATH": {"modeling/checkpoint.py", "run/checkpoint_io.py"},
    "_subcommands_action": {"run/parser.py"},
    "_trainer": {"module.py"},
}
"""Private attributes of other libraries, and the files that use them."""

ACCESSORS = {"getattr", "setattr", "hasattr", "delattr"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that code uses of some object or module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
            yield from (getattr(node, "module", "") or "").split(".")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ACCESSORS:
            yield from (word.value for word in node.args[1:2] if isinstance(word, ast.Constant))


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that code defines: functions, classes, variables, and attributes of `self` that it assigns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def foreign_names(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return private names that files use and none of them defines, each with its files."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    own = {name for tree in trees.values() for name in defined_names(tree)}
    foreign: dict[str, set[str]] = {}
    for file, tree in trees.items():
        for name in filter(is_private, private_names(tree)):
            if name not in own:
                foreign.setdefault(name, set()).add(file)
    return foreign


def test_the_package_uses_no_other_private_attribute() -> None:
    package = ROOT / "lit_bert"
    sources = {str(path.relative_to(package)): path.read_text("utf-8") for path in package.rglob("*.py")}
    assert foreign_names(sources) == USED


def test_it_would_be_noticed() -> None:
    text = "import a._one\nfrom b import _two\nclass C:\n    def _own(self):\n        self._mine = x._three\n"
    text += "        getattr(y, '_four'); z._five = self._own; self._mine; self._six\n"
    assert set(foreign_names({"a.py": text})) == {"_one", "_two", "_three", "_four", "_five", "_six"}


def test_contributing_lists_them() -> None:
    rows = [line for line in (ROOT / "CONTRIBUTING.md").read_text("utf-8").splitlines() if line.startswith("| `_")]
    assert {name for row in rows for name in re.findall(r"`(_\w+)`", row.split("|")[1])} == set(USED)
    tests = {path for row in rows for path in re.findall(r"`(tests/[\w/.]+)`", row)}
    assert tests
    assert [path for path in sorted(tests) if not (ROOT / path).is_file()] == []


def test_those_of_lightning_exist() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert callable(trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor)
    assert "_broadcast_sigterm_tensor()" in inspect.getsource(type(trainer.fit_loop.epoch_loop))  # and are called
    assert LightningModule()._trainer is None
    assert types._PATH


def test_those_of_jsonargparse_exist() -> None:
    parser, command = ArgumentParser(), ArgumentParser()
    command.add_argument("--option")
    assert parser._subcommands_action is None
    parser.add_subcommands().add_subcommand("command", command)
    assert parser._subcommands_action._name_parser_map == {"command": command}
    assert "--option" in command._option_string_actions


def test_that_of_transformers_exists(tmp_path: Path) -> None:
    make_bert(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config._attn_implementation in (None, "eager", "sdpa")
    config._attn_implementation = "eager"
    assert config._attn_implementation == "eager"
