"""`--help`: this project's options and the Trainer's most used on two screens; `--help=full` for all of Lightning's.

Nothing is imported that takes time: what a first word answers is there at once.
"""

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

COMMANDS = {
    "fit": "Train, test and export; with --ckpt_path, go on with a run.",
    "validate": "Evaluate a checkpoint on the validation rows.",
    "test": "Evaluate a checkpoint on the test rows.",
    "predict": "Classify the texts of a file, or the test rows, with a checkpoint.",
}

MODULES = {
    "lit_bert.export": "Write a checkpoint as a folder for transformers, or as ONNX.",
    "lit_bert.serve": "Answer requests for predictions, with a page to try it on.",
    "lit_bert.compare": "Tell whether one of two prediction files is better.",
    "lit_bert.study": "Train over seeds and folds, compare variants, search for options.",
}

NAME_WIDTH, WIDTH = 28, 100

SECTIONS = {
    "What to train on": r"data\.(?!tokenizer$)\w+",
    "The model and its training": r"model\.(?!optimizer|lr_scheduler)\w+|trainer\.max_(epochs|time)"
    r"|checkpoint\.monitor|distillation\.\w+",
    "The machine": r"trainer\.(accelerator|devices|num_nodes|precision|accumulate_grad_batches)",
    "The run": r"config|ckpt_path|seed_everything|name|\w+_after_fit|projector|checkpoint_minutes|print_config"
    r"|trainer\.default_root_dir",
    "What to predict": r"input|output|format|explain|keep",
}
"""Patterns of the options in `--help`, by the title above them."""

OURS = {
    "config": "YAML file of settings; configs/ has some to start from.",
    "ckpt_path": "Checkpoint to go on from, or its run's: best, last (of the newest run), or a file.",
    "seed_everything": "Seed of the random numbers.",
    "print_config": "Print the settings as a config file, and do nothing.",
    "checkpoint.monitor": "Metric whose highest value makes a checkpoint the best; with --checkpoint.mode min, lowest.",
    "trainer.max_epochs": "Times that all training rows are seen; null in a recipe for your own data chooses 3 to 20.",
    "trainer.max_time": "Time after which training ends, as DD:HH:MM:SS.",
    "trainer.accelerator": "Kind of device: cpu, gpu, or auto.",
    "trainer.devices": "Number of devices, or a list of their numbers.",
    "trainer.num_nodes": "Number of machines.",
    "trainer.precision": "Such as 32-true or bf16-mixed; null takes bfloat16 where the device is fast at it.",
    "trainer.accumulate_grad_batches": "Batches whose gradients make a step.",
    "trainer.default_root_dir": "Folder of all runs.",
}
"""Options of LightningCLI in the words of this project."""


class HelpAction(argparse.Action):
    """`-h`, `--help` and `--help=full`."""

    def __init__(self, option_strings: list[str], **kwargs: Any) -> None:
        options: dict[str, Any] = {"dest": argparse.SUPPRESS, "default": argparse.SUPPRESS, "nargs": "?"}
        text = "Show the options most used; --help=full shows all, Lightning's own included."
        super().__init__(option_strings, choices=("full",), metavar="full", help=text, **options)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        page = parser.format_help if values else parser.format_short_help
        print(page() if parser.command else overview(), end="")
        parser.exit()


def program() -> str:
    """Return what follows "python" on the command line, before the command."""
    path = Path(sys.argv[0])
    ours = path.name == "__main__.py" and path.parent.name in ("lit_bert", "study")  # a study calls `fit`, too
    return "-m lit_bert" if ours else path.name


def overview() -> str:
    """Return the page above all commands."""
    call = f"python {program()}"
    lines = [
        f"usage: {call} COMMAND [--config FILE] [--OPTION VALUE ...]",
        "",
        "Fine-tune, evaluate and use BERT for sentence classification.",
        "",
        f"    {call} fit                                        on Rotten Tomatoes",
        f"    {call} fit --data.dataset reviews.csv             on your own data",
        f"    {call} predict --ckpt_path best --input new.csv   with what was trained",
        "",
        "Commands:",
        *(f"  {name:{NAME_WIDTH}}{text}" for name, text in COMMANDS.items()),
        "",
        "Beside them, each with --help:",
        *(f"  {f'python -m {name}':{NAME_WIDTH}}{text}" for name, text in MODULES.items()),
        "",
        f"Options of a command: {call} fit --help",
    ]
    return "\n".join(lines) + "\n"


def check_command(words: Sequence[str]) -> None:
    """Answer what needs no parser: a question for help, no word at all, or a command that does not exist.

    Raises:
        SystemExit: With status 0 after help, with 2 if no command can be run.
    """
    if not words:
        sys.stderr.write(overview())
        raise SystemExit(2)
    first = words[0]
    if first in ("-h", "--help", "--help=full"):
        print(overview(), end="")
        raise SystemExit(0)
    if first.startswith("-") or first in COMMANDS:
        return
    near = difflib.get_close_matches(first, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    sys.stderr.write(f"error: {first}: the commands are {', '.join(COMMANDS)}{hint}\n")
    sys.stderr.write(f"What they do: python {program()} --help\n")
    raise SystemExit(2)


def short_help(program: str, options: Mapping[str, Any], defaults: Any) -> str:
    """Return the page.

    Args:
        program: How the command is called, such as "train.py fit".
        options: Argparse's actions by their name, such as "data.dataset".
        defaults: Default values by name.
    """
    lines = [f"usage: python {program} [--config FILE] [--OPTION VALUE ...]", ""]
    command = program.split()[-1]
    if command == "fit":
        lines += [f"    python {program}", f"    python {program} --data.dataset reviews.csv", ""]
    for title, pattern in SECTIONS.items():
        names = [name for name in options if re.fullmatch(pattern, name)]
        if names:
            lines += [f"{title}:", *_entries(names, options, defaults), ""]
    lines += [f"All of Lightning's options, too, optimizers and callbacks included: python {program} --help=full"]
    return "\n".join(lines) + "\n"


def _entries(names: Iterable[str], options: Mapping[str, Any], defaults: Any) -> Iterable[str]:
    for name in names:
        action = options[name]
        text = OURS.get(name) or re.split(r"(?<=\.)\s", " ".join((action.help or "").split()))[0]
        default = defaults.get(name)
        if default is not None and not isinstance(default, dict | list) and default != "==SUPPRESS==":
            shown = str(default).lower() if isinstance(default, bool) else default
            text = f"{text.removesuffix('.')} (default: {shown})."
        first, *more = textwrap.wrap(text, WIDTH - NAME_WIDTH) or [""]
        head = f"  --{name}"
        if len(head) >= NAME_WIDTH:
            yield head
            head = ""
        yield f"{head:{NAME_WIDTH}}{first}"
        yield from (" " * NAME_WIDTH + line for line in more)
