"""`python -m lit_bert export --ckpt_path X --to DIR`: a folder that `transformers` loads without this project."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lit_bert.errors import UserError, exit_on_user_error


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; None takes the process's arguments.

    Raises:
        SystemExit: With status 2 after a user's mistake.
    """
    description = 'Write a checkpoint as a folder that transformers.pipeline("text-classification", DIR) loads.'
    parser = argparse.ArgumentParser(prog="python -m lit_bert export", description=description)
    where = "a checkpoint that `fit` wrote; best or last takes that of the newest run in runs/"
    parser.add_argument("--ckpt_path", metavar="X", type=Path, required=True, help=where)
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder, which must be new or empty")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="upload it, too, to a repository of the Hub")
    flags = {
        "onnx": "write model.onnx, too: pip install '.[onnx]'",
        "int8": "write model_int8.onnx, too, if that costs at most a point of accuracy on the validation rows",
        "force": "with --int8: write it also if that costs more",
        "calibrate": "make probabilities fit the validation rows, by a temperature folded into the last layer",
        "public": "with --push_to_hub: a repository that is new is public, in place of private",
    }
    for flag, meaning in flags.items():
        parser.add_argument(f"--{flag}", action="store_true", help=meaning)
    options = parser.parse_args(args)
    with exit_on_user_error():
        if options.force and not options.int8:
            raise UserError("--force: it is for --int8; leave it out, or add --int8")
        if options.public and not options.push_to_hub:
            raise UserError("--public: it is for --push_to_hub; leave it out, or add --push_to_hub owner/name")
        from lit_bert.console import status  # which takes seconds: torch and Lightning
        from lit_bert.files import display_path
        from lit_bert.inference.export import export, load_metrics, resolve_checkpoint
        from lit_bert.inference.upload import push_to_hub

        path = resolve_checkpoint(options.ckpt_path)
        what = (options.calibrate, options.onnx, options.int8, options.force)
        export(path, options.to, load_metrics(path), *what)
        status("export", display_path(options.to))
        if options.push_to_hub:
            status("hub", push_to_hub(options.to, options.push_to_hub, options.public))


if __name__ == "__main__":
    main()
