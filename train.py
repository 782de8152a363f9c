"""Fine-tune, evaluate and use BERT: `python train.py fit`, `validate`, `test` or `predict`; `--help` says the rest."""

import sys

if __name__ == "__main__":
    try:
        from lit_bert.cli import main

        main()
    except KeyboardInterrupt:  # outside of training, which ends with a checkpoint
        sys.stderr.write("stopped by SIGINT\n")
        raise SystemExit(130) from None
