"""`python -m lit_bert.serve --ckpt_path X`: a trained classifier behind an address, with a page to try it on."""

import sys

if __name__ == "__main__":
    try:
        from lit_bert.inference.server import main
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "litserve"):
            raise
        sys.stderr.write("error: a server needs LitServe: pip install -e '.[serve]' -c constraints.txt\n")
        raise SystemExit(2) from None
    main()
