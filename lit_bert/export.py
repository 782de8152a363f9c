"""`python -m lit_bert.export --ckpt_path X --to DIR`: a folder that `transformers` loads without this project."""

from lit_bert.inference.export import main

if __name__ == "__main__":
    main()
