"""`python -m lit_bert fit`, `validate`, `test` or `predict`: as `train.py`, from any folder."""

from lit_bert.cli import main

if __name__ == "__main__":
    main()
