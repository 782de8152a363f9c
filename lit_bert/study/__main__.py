"""`python -m lit_bert.study`: one recipe over seeds and folds, beside variants, or searched for better options."""

import sys

if __name__ == "__main__":
    try:
        from lit_bert.study.command import main
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        sys.stderr.write("error: a study needs Optuna: pip install -e '.[study]' -c constraints.txt\n")
        raise SystemExit(2) from None
    try:
        main()
    except KeyboardInterrupt:  # before its runs, or after them
        sys.stderr.write("stopped by SIGINT; the same command goes on\n")
        raise SystemExit(130) from None
