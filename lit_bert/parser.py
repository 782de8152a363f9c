"""The command line's parser: LightningCLI's, short in its errors and with the nearest right spelling in them."""

import difflib
import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class Parser(LightningArgumentParser):
    """A parser that takes no abbreviations, and answers a mistake with its nearest right spelling."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and a hint, without a page of usage, and exit with status 2."""
        if getattr(self, "exit_on_error", True) is False:
            super().error(message, ex)
        hint = ""
        if unknown := re.search(
            r"unrecognized arguments: --([\w.]+)|accept option '([\w.]+)'|[Kk]ey '([\w.]+)'", message
        ):
            key = next(group for group in unknown.groups() if group)
            known = {option.lstrip("-") for option in self._option_string_actions}
            for parser in getattr(self._subcommands_action, "_name_parser_map", {}).values():
                known |= {option.lstrip("-") for option in parser._option_string_actions}
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
        sys.stderr.write(f"error: {message}{hint}\nOptions and their meaning: {self.prog} --help\n")
        raise SystemExit(2)
