"""Fine-tune, evaluate and use BERT: `python train.py fit`, `validate`, `test` or `predict`; `--help` says the rest."""

if __name__ == "__main__":
    try:
        from lit_bert.cli import main

        main()
    except KeyboardInterrupt:  # outside of training, which ends with a checkpoint
        raise SystemExit(130) from None
