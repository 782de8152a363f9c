"""Commands, links, pictures and file trees of the documentation are right."""

import argparse
import contextlib
import dataclasses
import io
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import Patch
from transformers import TrainingArguments

from lit_bert import compare, export, serve
from lit_bert.cli import main
from lit_bert.study import __main__ as study

ROOT = Path(__file__).parent.parent
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
MODULES = {"export": export, "compare": compare, "serve": serve}
FRONT_DOOR = r"(?:(?:python|torchrun .*) (?:train\.py|-m lit_bert)|lit-bert)"
OTHERS = {"--nnodes", "--nproc_per_node", "--node_rank", "--master_addr", "--master_port", "--no-sandbox", "--rounds"}
"""Options of other programs that the text names."""


def snippets(path: Path) -> list[str]:
    """Return the lines of code blocks, continued ones joined, and what stands in backticks elsewhere."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return text.split('"""')[1].splitlines()
    parts = re.split(r"^```.*\n", text, flags=re.MULTILINE)
    blocks, prose = parts[1::2], parts[::2]
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return lines + [" ".join(code.split()) for part in prose for code in re.findall(r"`([^`]+)`", part)]


def commands(program: str, paths: list[Path]) -> list[Any]:
    """Return the arguments of a program, given as a pattern, wherever it is called; each once."""
    found: dict[str, str] = {}
    for path in paths:
        for line in snippets(path):
            line = line.replace("-m lit_bert.", "-m lit_bert ")  # python -m lit_bert.export is an alias
            if call := re.search(rf"(?:^|[ |]){program}( .*|$)", line):
                command = re.split(r"\s(?:\||#|&)(?:\s|$)", f"{call[1]} ")[0].strip()
                found.setdefault(command, f"{path.name}: {command}")
    return [pytest.param(command, id=title) for command, title in found.items()]


def words_of(command: str) -> list[str]:
    """Split a command, with a value for "..." and for placeholders such as <run>."""
    return shlex.split(re.sub(r"<(\w+)>", r"\1", command).replace("...", "configs/packaged.yaml"))


def without(words: list[str], option: str) -> list[str]:
    if option not in words:
        return words
    place = words.index(option)
    return words[:place] + words[place + 2 :]


def parses(words: list[str], **classes: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"], **classes)
    assert stop.value.code in (0, None), words


def prepared(command: str, tmp_path: Path, monkeypatch: Patch) -> list[str]:
    """Return a command's words, with neither a checkpoint nor the config of a run, which are not there."""
    monkeypatch.chdir(ROOT)  # for configs/
    monkeypatch.setenv("LIT_BERT_RECIPE", "packaged.yaml: a test")
    monkeypatch.setenv("LIT_BERT_RECIPE_OWN_DATA", "own_data_packaged.yaml: a test")
    words = without(words_of(command), "--ckpt_path")
    if words and words[0] != "fit":
        words += ["--model.pretrained", "packaged"]
    if "--input" in words:
        words += ["--ckpt_path", str(tmp_path)]  # a folder, as an exported model is
    if "--config" in words and words[words.index("--config") + 1].startswith("runs/"):
        words = without(words, "--config")
    return words


@pytest.mark.parametrize("command", commands(FRONT_DOOR, DOCS))
def test_a_command_parses(command: str, tmp_path: Path, monkeypatch: Patch) -> None:
    name, *words = words_of(command) or [""]
    if name == "study":
        monkeypatch.chdir(ROOT)
        options, shared = study._parser().parse_known_args(words)
        for _, variant in options.variant or [([], [])]:
            parses(["fit", *shared, *variant])
    elif name in MODULES:
        parses_in_module(name, words, monkeypatch)
    elif name and "--help" not in command:
        words = prepared(command, tmp_path, monkeypatch)
        parses([word for word in words if word != "--print_config"])


def parses_in_module(name: str, words: list[str], monkeypatch: Patch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, args: Any = None) -> None:
        parse(self, args)
        raise InterruptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    if not words:  # it is only named
        return
    with pytest.raises(InterruptedError):
        MODULES[name].main(words)


@pytest.mark.parametrize("command", commands("make", DOCS))
def test_a_target_of_make_exists(command: str) -> None:
    assert re.search(rf"^{command}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", commands(r"python examples/own_loss\.py", [*DOCS, *EXAMPLES]))
def test_a_command_of_an_example_parses(command: str, tmp_path: Path, monkeypatch: Patch) -> None:
    import runpy

    words = prepared(command, tmp_path, monkeypatch)
    script = runpy.run_path(str(ROOT / "examples" / "own_loss.py"))
    if words:
        parses(words, model_class=script["SmoothedBertClassifier"])


@cache
def known_options() -> set[str]:
    """Return all options that `--help` lists, of all commands."""
    said = io.StringIO()
    for command in (["fit"], ["predict"]):
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
            main([*command, "--help=full"] if command else ["--help"])
    for module in MODULES.values():
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
            module.main(["--help"])
    said.write(study._parser().format_help())
    return {option.rstrip(".+") for option in re.findall(r"--[\w.+]+", said.getvalue())}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_an_option_that_the_text_names_exists(path: Path) -> None:
    if path.name == "CHANGELOG.md":  # which names options that were
        return
    prose = "".join(re.split(r"^```.*\n", path.read_text("utf-8"), flags=re.MULTILINE)[::2])
    named = {option for code in re.findall(r"`(--[^`]+)`", prose) for option in re.findall(r"--[\w.-]+", code)}
    assert named - OTHERS <= known_options()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_and_pictures_exist(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        target, _, heading = link.partition("#")
        if re.match("https?:", link):
            continue
        file = path.parent / target if target else path
        assert file.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, link


def test_pictures_are_small_and_shown() -> None:
    pictures = sorted(ROOT.glob("docs/images/*"))
    assert pictures
    text = "".join(path.read_text("utf-8") for path in DOCS)
    for picture in pictures:
        assert picture.stat().st_size < 200_000
        assert f"images/{picture.name})" in text


def tree_paths(block: str) -> list[str]:
    """Return the paths that a tree of files names; folders end with a slash, and what is in them is indented by 4."""
    folders: list[str] = []
    paths = []
    for line in block.splitlines():
        depth, names = (len(line) - len(line.lstrip())) // 4, line.strip().split("  ")[0].split(", ")
        paths += ["".join([*folders[:depth], name]) for name in names]
        folders = [*folders[:depth], names[0]]
    return paths


def test_the_file_tree_of_the_readme_is_whole() -> None:
    [block] = re.findall(r"^```\n(train\.py .*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    paths = tree_paths(block)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    rooms = {f"lit_bert/{file.parent.name}/" for file in ROOT.glob("lit_bert/*/__init__.py")}
    assert rooms <= set(paths)


def test_files_that_the_text_names_exist() -> None:
    for path in DOCS:
        named = re.findall(r"`((?:tests|docs|configs|benchmarks|examples|lit_bert)/[\w/.]+)`", path.read_text("utf-8"))
        assert [file for file in named if not (ROOT / file).exists()] == [], path.name


def test_the_calibration_error_of_the_default_run_is_the_same_on_both_pages() -> None:
    output, table = ((ROOT / "docs" / name).read_text("utf-8") for name in ("results.md", "calibration_and_compare.md"))
    before, after = re.findall(r"^calib +test ECE ([\d.]+), ([\d.]+) after", output, re.MULTILINE)[0]
    assert f"| `configs/packaged.yaml` | {before} | {after} (" in table


def test_the_training_arguments_of_the_hugging_face_trainer_exist() -> None:
    _, table = (ROOT / "docs" / "from_hf_trainer.md").read_text("utf-8").split("## TrainingArguments")
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", "".join(line.split("|")[1:2]))}
    assert len(named) > 20
    assert named <= {field.name for field in dataclasses.fields(TrainingArguments)}


def test_every_page_is_linked_from_the_readme_or_another_page() -> None:
    text = "".join(path.read_text("utf-8") for path in DOCS)
    assert [page.name for page in ROOT.glob("docs/*.md") if f"{page.name})" not in text] == []
