"""The command line's parser: LightningCLI's, short in its errors and with the nearest right spelling in them."""

import difflib
import re
import sys
from os import PathLike
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class Parser(LightningArgumentParser):
    """A parser that takes no abbreviations, and answers a mistake with its nearest right spelling."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.config_files: dict[str, None] = {}

    def parse_path(self, path: str | PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Parse a config file, and remember its name for messages."""
        self.config_files[str(path)] = None
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError:
            self.error("Problems parsing config: it is not text in UTF-8")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and a hint, without a page of usage, and exit with status 2."""
        if getattr(self, "exit_on_error", True) is False:
            super().error(message, ex)
        parsers = [self, *getattr(self._subcommands_action, "_name_parser_map", {}).values()]
        hint = ""
        if unknown := re.search(
            r"unrecognized arguments: --([\w.]+)|accept option '([\w.]+)'|[Kk]ey '([\w.]+)'", message
        ):
            key = next(group for group in unknown.groups() if group)
            known = {option.lstrip("-") for parser in parsers for option in parser._option_string_actions}
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
        if re.match(r"Problems parsing|Unexpected config|Subcommand '\w+' does not accept", message):
            hint += f" (config file {', '.join(name for parser in parsers for name in parser.config_files)})"
        program = self.prog.replace(" [options]", "")
        sys.stderr.write(f"error: {message}{hint}\nOptions and their meaning: python {program} --help\n")
        raise SystemExit(2)
