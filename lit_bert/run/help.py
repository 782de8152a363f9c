"""`--help`: this project's options and the Trainer's most used on two screens, without imports that take time."""

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMANDS = {
    "fit": ("cli", "Train, test and export; with --ckpt_path, go on with a run."),
    "validate": ("cli", "Evaluate a checkpoint on the validation rows."),
    "test": ("cli", "Evaluate a checkpoint on the test rows."),
    "predict": ("cli", "Classify the texts of a file, or the test rows, with a checkpoint."),
    "export": ("export", "Write a checkpoint as a folder for transformers, or as ONNX."),
    "serve": ("serve", "Answer requests for predictions, with a page to try it on."),
    "study": ("study.__main__", "Train over seeds and folds, compare variants, search for options."),
    "compare": ("compare", "Tell whether one of two prediction files is better."),
}
"""What runs a command: a module of this package, imported only then; and what the command does."""

SECTIONS = {
    "What to train on": r"data\.(?!(tokenizer|\w*batch_size|padding|group_by_length|num_workers)$)\w+",
    "Its batches": r"data\.(\w*batch_size|padding|group_by_length|num_workers)",
    "The model and its training": r"model\.(?!optimizer|lr_scheduler)\w+|trainer\.max_(epochs|time)"
    r"|checkpoint\.monitor|distillation\.\w+",
    "The machine": r"trainer\.(accelerator|devices|num_nodes|precision|accumulate_grad_batches)",
    "The run": r"config|ckpt_path|seed_everything|name|\w+_after_fit|checkpoint_minutes|print_config"
    r"|trainer\.default_root_dir",
    "What to predict": r"input|output|format|explain|keep",
}
"""Patterns of the options in `--help`, by the title above them."""

OURS = {
    "ckpt_path": "Checkpoint to go on from, or its run's: best, last (of the newest run), or a file.",
    "seed_everything": "Seed of the random numbers.",
    "checkpoint.monitor": "Metric of the best checkpoint, at a tie val/loss; of your own, --checkpoint.mode tells how.",
    "trainer.max_epochs": "Times that all training rows are seen; null in a recipe for your own data chooses 3 to 20.",
    "trainer.max_time": "Time after which training ends, as DD:HH:MM:SS.",
    "trainer.accelerator": "Kind of device: cpu, gpu, or auto.",
    "trainer.devices": "Number of devices, or a list of their numbers.",
    "trainer.precision": "Such as 32-true or bf16-mixed; null takes bfloat16 where the device is fast at it.",
    "trainer.default_root_dir": "Folder of all runs.",
}
"""Options of LightningCLI in the words of this project."""


def call() -> str:
    """Return what a person types before a command: "python train.py", "python -m lit_bert" or "lit-bert"."""
    path = Path(sys.argv[0])
    if path.stem == "lit-bert":
        return path.stem
    ours = path.name == "__main__.py" and path.parent.name in ("lit_bert", "study")  # a study calls `fit`, too
    return f"python {'-m lit_bert' if ours else shlex.quote(sys.argv[0])}"


def overview() -> str:
    """Return the page above all commands."""
    commands = "\n".join(f"  {name:12}{text}" for name, (_, text) in COMMANDS.items())
    return f"""usage: {call()} COMMAND [--config FILE] [--OPTION VALUE ...]

Fine-tune, evaluate and use BERT for sentence classification.

    {call()} fit                                        on Rotten Tomatoes
    {call()} fit --data.dataset reviews.csv             on your own data
    {call()} predict --ckpt_path best --input new.csv   with what was trained

Commands:
{commands}

Options of a command: {call()} fit --help
"""


def check_command(words: Sequence[str]) -> None:
    """Answer what needs no parser: a question for help, no word at all, or a command that does not exist.

    Raises:
        SystemExit: With status 0 after help, with 2 if no command can be run.
    """
    first = words[0] if words else ""
    if first in ("-h", "--help", "--help=full"):
        print(overview(), end="")
        raise SystemExit(0)
    if first.startswith("-") or first in COMMANDS:
        return
    near = difflib.get_close_matches(first, COMMANDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    mistake = f"error: {first}: the commands are {', '.join(COMMANDS)}{hint}\nWhat they do: {call()} --help\n"
    sys.stderr.write(mistake if words else overview())
    raise SystemExit(2)


def short_help(program: str, options: Mapping[str, argparse.Action], defaults: Mapping[str, object]) -> str:
    """Return the page of a command that is called as `program`, such as "python train.py fit"; options lack dashes."""
    usage = f"usage: {program} [--config FILE] [--OPTION VALUE ...]\n\n"
    if program.endswith(" fit"):
        usage += f"    {program}\n    {program} --data.dataset reviews.csv\n\n"
    page = argparse.HelpFormatter("", max_help_position=28, width=100)
    for title, pattern in SECTIONS.items():
        page.start_section(title)
        for name in options:
            if re.fullmatch(pattern, name):
                meaning = _meaning(name, options[name], defaults.get(name))
                page.add_argument(argparse.Action([f"--{name}"], name, nargs=0, help=meaning))
        page.end_section()
    full = f"A recipe has defaults of its own, which {program} --print_config shows.\n"
    full += f"All of Lightning's options, too, optimizers and callbacks included: {program} --help=full\n"
    return f"{usage}{page.format_help()}\n{full}"


def _meaning(name: str, action: argparse.Action, default: object) -> str:
    """Return the first sentence on an option, with its default value if that is short."""
    text = OURS.get(name) or re.split(r"(?<=\.)\s", " ".join((action.help or "").split()))[0]
    if default is not None and not isinstance(default, dict | list) and default != argparse.SUPPRESS:
        shown = str(default).lower() if isinstance(default, bool) else default
        text = f"{text.removesuffix('.')} (default: {shown})."
    return text.replace("%", "%%")
