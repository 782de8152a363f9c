"""`python -m lit_bert compare A B`: whether one of two prediction files is better, as far as their rows can tell."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lit_bert.errors import exit_on_user_error


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; None takes the process's arguments.

    Raises:
        SystemExit: With status 2 after a user's mistake.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lit_bert compare",
        description="Compare two prediction files of the same labelled rows, as `predict` writes them.",
    )
    parser.add_argument("a", metavar="A", type=Path, help="a predictions file, .csv or .jsonl")
    parser.add_argument("b", metavar="B", type=Path, help="another")
    options = parser.parse_args(args)
    from lit_bert.inference.compare import print_comparison  # which takes seconds: torch

    with exit_on_user_error():
        print_comparison(options.a, options.b)


if __name__ == "__main__":
    main()
