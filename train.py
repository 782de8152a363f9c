"""Fine-tune, evaluate and use BERT: `python train.py fit`, `validate`, `test` or `predict`; `--help` says the rest."""

from lit_bert.__main__ import main

if __name__ == "__main__":
    main()
