"""`python -m lit_bert fit`, `validate`, `test` or `predict`: as `train.py`, from any folder."""

import sys

from lit_bert.run.help import check_command


def main() -> None:
    """Run the process's command line."""
    try:
        check_command(sys.argv[1:])
        from lit_bert.cli import main as run  # which takes seconds: torch and Lightning

        run()
    except KeyboardInterrupt:  # outside of training, which ends with a checkpoint
        sys.stderr.write("stopped by SIGINT\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
