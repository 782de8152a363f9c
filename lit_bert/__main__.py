"""`python -m lit_bert COMMAND`: the one front door, which is also `lit-bert` and `train.py`."""

import io
import os
import sys
from importlib import import_module

from lit_bert.errors import UserError, exit_on_user_error
from lit_bert.run.help import COMMANDS, check_command


class Output(io.TextIOWrapper):
    """Standard output that cannot cost a result: where its reader has left, what is printed is dropped."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:  # or the disk of a log is full
            return self._drop(len(text))

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._drop(0)

    def _drop(self, size: int) -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        return size


def main() -> None:
    """Run the process's command line; a command's module is imported only when it runs.

    Raises:
        SystemExit: With the command's status.
    """
    words = sys.argv[1:]
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        out, lines, through = sys.stdout, sys.stdout.line_buffering, sys.stdout.write_through
        output = Output(out.detach(), out.encoding, "replace", line_buffering=lines, write_through=through)
        sys.stdout = sys.__stdout__ = output  # type: ignore[misc]
    with exit_on_user_error():  # Ctrl-C outside of training, which ends with a checkpoint
        try:
            check_command(words)
            command = next((word for word in words if word in COMMANDS), "fit")
            module, _ = COMMANDS[command]
            run = import_module(f"lit_bert.{module}").main
            run(words) if module == "cli" else run(words[1:])
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("lit_bert."):
                raise
            raise UserError(f"{command}: {error.name} is not in this copy of lit_bert") from error


if __name__ == "__main__":
    main()
