"""The command line's parser: LightningCLI's, short in its errors and with the nearest right spelling in them."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from os import PathLike
from typing import Any, NoReturn

import torch
from jsonargparse.typing import register_type
from lightning.pytorch import callbacks, loggers
from lightning.pytorch.cli import LightningArgumentParser

from lit_bert.files import display_path
from lit_bert.run.help import overview, short_help
from lit_bert.run.recipe import CONFIGS

register_type(torch.device)  # some of Lightning's callbacks take one, and are saved with it

_INSTEAD = dict.fromkeys(("model.lora_rank", "model.lora_targets"), "LoRA is a script now: examples/lora.py") | {
    "lr": "did you mean model.learning_rate?",
    "epochs": "did you mean trainer.max_epochs?",
    "seed": "did you mean seed_everything?",
    "model.class_path": "for a class of your own, call lit_bert.cli.main(model_class=YourClass) from a script",
    "data.class_path": "for a class of your own, call lit_bert.cli.main(datamodule_class=YourClass) from a script",
    "projector": "it is gone; TensorBoard's page of errors lists the rows to look at",
    "safe_csv": "it is gone; write --format jsonl, or import the text columns as text",
    "stream": "it is gone; lines of a pipe (--input -) are answered as they come",
    "backend": "it is gone; run the ONNX file of an exported folder with onnxruntime",
}
"""What to do instead of options that do not exist here, or no longer."""

_FILES = {"yaml": "--config", "yml": "--config", "ckpt": "--ckpt_path"} | dict.fromkeys(
    ("csv", "tsv", "json", "jsonl", "parquet"), "--data.dataset"
)
"""What a file was meant for, by the end of its name."""


class HelpAction(argparse.Action):
    """`-h`, `--help` and `--help=full`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option_string: str | None = None
    ) -> None:
        assert isinstance(parser, Parser)
        actions = {name[2:]: action for name, action in parser._option_string_actions.items() if name[:2] == "--"}
        defaults = vars(parser.get_defaults(skip_validation=True).as_flat())
        page = parser.format_help() if values else short_help(parser.program, actions, defaults)
        print(page if parser.command else overview(), end="")
        parser.exit()


class Parser(LightningArgumentParser):
    """A parser that takes no abbreviations; `command` is None for the one above all subcommands."""

    def __init__(self, *args: Any, command: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, add_help=False, **kwargs)
        self.command = command
        text = "Show the options most used; --help=full shows all, Lightning's own included."
        kind: dict[str, Any] = {"action": HelpAction, "nargs": "?", "choices": ("full",), "metavar": "full"}
        self.add_argument("-h", "--help", dest=argparse.SUPPRESS, default=argparse.SUPPRESS, help=text, **kind)
        self.config_files: dict[str, None] = {}

    def add_class_arguments(self, theclass: type | Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
        """Leave out `encoder_config`, which is for checkpoints alone."""
        kwargs["skip"] = {*(kwargs.get("skip") or ()), "encoder_config"}
        return list(super().add_class_arguments(theclass, *args, **kwargs))

    def parse_path(self, path: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Parse a config file, and remember its name for messages."""
        self.config_files[str(path)] = None
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError:
            self.error("Problems parsing config: it is not text in UTF-8")

    @property
    def program(self) -> str:
        """How the command is called, such as "python train.py fit"."""
        return self.prog.replace(" [options]", "")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and a hint, without a page of usage, and exit with status 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        parsers = [self, *getattr(self._subcommands_action, "_name_parser_map", {}).values()]
        hint = ""
        message = re.sub(r"Group '([\w.]+)' does not accept option '", r"Key '\1.", message)
        if unknown := re.search(r"(?:unrecognized arguments: --|accept option '|[Kk]ey ')([\w.]+)", message):
            key = unknown[1]
            known = {option.lstrip("-") for parser in parsers for option in parser._option_string_actions}
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; {_INSTEAD[key]}" if key in _INSTEAD else f"; did you mean {near[0]}?" if near else ""
        elif word := re.search(r"unrecognized arguments: ([^\s-]\S*)", message):
            option = _FILES.get(word[1].removesuffix(".gz").rpartition(".")[2])
            hint = f"; did you mean {option} {word[1]}?" if option else ""
        elif (gone := re.search(r"File does not exist: '.*?([^/]+)'", message)) and (CONFIGS / gone[1]).is_file():
            hint = f"; did you mean --config {display_path(CONFIGS / gone[1])}?"
        if "class_names" in message and re.search("Got value: (True|False)", message):
            hint = """; write names that YAML takes for truth values in quotes: '["no", "yes"]'"""
        if "long_text" in message and "windows" in message:
            hint = "; windows are gone: use head_tail"
        if re.match(r"Problems parsing|Unexpected config|Subcommand '\w+' does not accept", message):
            files = [name for parser in parsers for name in (*parser.config_files, *parser.default_config_files)]
            hint += f" (config file {', '.join(map(str, files))})"
        sys.stderr.write(f"error: {_shortened(message)}{hint}\nOptions and their meaning: {self.program} --help\n")
        raise SystemExit(2)


def _shortened(message: str) -> str:
    """Return in a line what jsonargparse says in one for each type that a value may have; else the message as it is."""
    told = re.search(r'key "([\w.]+)".*Subtypes: ([^\n]*).*Given value: ([^\n]*)', message, re.DOTALL)
    if not told:
        return message
    option, subtypes, value = told.groups()
    if nested := re.match(r"NestedArg\(key='([\w.]+)'", value):
        return f"--{option}.{nested[1]}: it is an option of a class; name that first, as --{option} CLASS"
    if lacks := re.search(r"class_path '[\w.]*?(\w+)':\s+the following arguments are required: (.*)", message):
        return f"--{option} {lacks[1]}: set --{option}.{lacks[2]}, too"
    if name := re.search("dot import path string: (.*)", message):
        known = [*callbacks.__all__, *loggers.__all__, *torch.optim.__all__, *torch.optim.lr_scheduler.__all__]
        near = difflib.get_close_matches(name[1], known, n=1)
        advice = (
            f"did you mean {near[0]}?"
            if near
            else "give one of Lightning's or PyTorch's, or one of yours as MODULE.CLASS"
        )
        return f"--{option} {name[1]}: there is no such class; {advice}"
    allowed = [kind.strip("'") for kind in re.findall(r"'[\w-]+'|list\[\w+\]", subtypes) if kind != "'NoneType'"]
    return message if "class_path" in value else f"--{option} {value}: it must be one of {', '.join(allowed)}"
