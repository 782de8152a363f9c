"""`python -m lit_bert.compare A B`: whether one of two prediction files is better, as far as their rows can tell."""

from lit_bert.inference.compare import main

if __name__ == "__main__":
    main()
