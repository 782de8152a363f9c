"""`python -m lit_bert.study`: one recipe over seeds and folds, beside variants, or searched for better options."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from lit_bert.errors import UserError, exit_on_user_error

DESCRIPTION = """Train one recipe over seeds and folds, beside variants, or search for better options.

All other options are those of `python train.py fit`, which every run shares. The same command goes on with a study that
was stopped, and tries again what failed. The test rows are looked at once, at the end, with the runs of the candidate
that is best on validation rows, and those of the baseline."""


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line, by default the process's own, and return the content of `study.json`.

    Raises:
        SystemExit: With status 2 after a user's mistake, with 130 or 143 after a signal.
    """
    options, shared = _parser().parse_known_args(_quoted(sys.argv[1:] if args is None else args))
    with exit_on_user_error():
        try:
            from lit_bert.study.study import run_study
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise UserError("a study needs Optuna: pip install -e '.[study]' -c constraints.txt") from error
        return run_study(options, shared)


def _quoted(words: Sequence[str]) -> list[str]:
    """Put a space before the options of each `--variant`, or argparse would take a single one for its own."""
    return [*words[:2], *(f" {word}" if words[place] == "--variant" else word for place, word in enumerate(words[2:]))]


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m lit_bert study", description=DESCRIPTION, formatter_class=form)
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--name", default="study", help="name of the study and its folder (default: study)")
    add("--root", default="runs", help="where its folder is (default: runs)")
    add("--seeds", type=PositiveInt, default=1, help="run each candidate with seeds 1 to this (default: 1)")
    add("--folds", type=int, help="validate on each of so many folds in turn")
    names, text = ("NAME", "OPTIONS"), "options that differ from the baseline's, in quotes; may be given several times"
    add("--variant", nargs=2, type=shlex.split, action="append", default=[], metavar=names, help=text)
    add("--variants", type=Path, help="YAML file of variants: the options of each, by its name")
    add("--search", type=Path, help="YAML file of ranges, in which better values are searched for")
    add("--trials", type=PositiveInt, default=30, help="how many of them are tried (default: 30)")
    add("--storage", help="URL of an Optuna storage that machines share (default: a file in the study's folder)")
    add("--workers", type=PositiveInt, default=1, help="runs at a time, each on one GPU, if there are any")
    return parser


if __name__ == "__main__":
    main()
