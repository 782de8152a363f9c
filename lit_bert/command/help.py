"""`--help`: this project's options and the Trainer's most used on two screens; `--help=full` for all of Lightning's."""

import argparse
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

NAME_WIDTH, WIDTH = 28, 100

SECTIONS = {
    "What to train on": r"data\.(?!tokenizer$)\w+",
    "The model and its training": r"model\.(?!optimizer|lr_scheduler)\w+|trainer\.max_(epochs|time)"
    r"|checkpoint\.monitor|distillation\.\w+",
    "The machine": r"trainer\.(accelerator|devices|num_nodes|precision|accumulate_grad_batches)",
    "The run": r"config|ckpt_path|seed_everything|name|\w+_after_fit|projector|checkpoint_minutes|print_config"
    r"|trainer\.default_root_dir",
    "What to predict": r"input|output|format|backend|explain|keep|safe_csv|stream",
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
        print(parser.format_help() if values or not parser.command else parser.format_short_help(), end="")
        parser.exit()


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
