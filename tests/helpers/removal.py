"""Runs `fit` on copies of the package from which something was taken away, each in a process forked from this one.

python tests/helpers/removal.py RECIPE FOLDER PIECE...

Prints a line for each piece: its exit code, and it; what `fit` printed is in FOLDER/PIECE.log, slashes as dashes.
"""

import os
import shutil
import sys
from pathlib import Path

from quick import no_pixels, no_rate, writer

PACKAGE = Path(__file__).resolve().parents[2] / "lit_bert"


def run(recipe: str, folder: Path, piece: str) -> None:
    """Take a file or folder away from a copy of the package, and train with it."""
    name = piece.replace("/", "-")
    copy = folder / name / "lit_bert"
    shutil.copytree(PACKAGE, copy)
    path = copy / piece
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.chdir(folder / name)
    with (folder / f"{name}.log").open("wb", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.path.insert(0, str(copy.parent))
    sys.meta_path[:] = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
    sys.argv = ["train.py", "fit", "--config", recipe]
    from lit_bert.run import hardware

    hardware.measure_matmul_gflops = no_rate
    writer.figure_to_image = no_pixels
    from lit_bert.cli import main

    assert main.__code__.co_filename == str(copy / "cli.py")
    main()


if __name__ == "__main__":
    # What takes long to import is shared by all children.
    import datasets  # noqa: F401
    import lightning.pytorch.cli  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import sklearn.feature_extraction.text
    import sklearn.linear_model
    import sklearn.metrics  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401

    torch.set_num_threads(1)
    recipe, folder, *pieces = sys.argv[1:]
    for piece in pieces:
        if not (child := os.fork()):
            run(recipe, Path(folder), piece)
            sys.stdout.flush()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), piece, flush=True)
