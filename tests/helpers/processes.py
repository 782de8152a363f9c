"""Commands in processes of their own, one for each rank; they are forked from a server that has done the imports."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT: Any = multiprocessing.get_context("forkserver")
PRELOADED = ["lit_bert.cli", "datasets", "transformers.models.bert.modeling_bert", "transformers", "matplotlib.figure"]
PRELOADED += ["torch.utils.tensorboard", "sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.metrics"]
CONTEXT.set_forkserver_preload(PRELOADED)

Change = Callable[[], None]
"""What is done in each process before the command: a function of a module, for its name is what is passed on."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _run(commands: list[list[str]], log: Path, variables: dict[str, str], change: Change | None) -> None:
    import torch

    os.environ.update(variables)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    from lightning.pytorch.utilities import rank_zero_only
    from quick import end_quickly

    from lit_bert.cli import main

    end_quickly()
    rank_zero_only.rank = int(variables.get("RANK", 0))  # it was looked up when the server imported it
    if change is not None:
        change()
    for words in commands:
        sys.argv = ["train.py", *words]
        main(words)


def start(
    words: list[str],
    log: Path,
    ranks: int = 1,
    change: Change | None = None,
    then: Sequence[list[str]] = (),
    **variables: str,
) -> list[BaseProcess]:
    """Start a command on some ranks, as torchrun does, and more commands that the same processes run after it.

    What they print is appended to `log`.
    """
    commands = [words, *then]
    if ranks > 1:
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "test"}
        variables |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
        told = [f"--trainer.devices={ranks}", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
        commands = [[command, *told, *options] for command, *options in commands]
    started = []
    for rank in range(ranks):
        mine = {**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else variables
        process = CONTEXT.Process(target=_run, args=(commands, log, mine, change))
        process.start()
        started.append(process)
    return started


def finish(processes: list[BaseProcess], seconds: float = 60, patience: float = 60) -> list[int | None]:
    """Wait for all to end within some seconds, and return their exit codes.

    `patience` seconds after one has failed, the others get SIGTERM, as torchrun does it.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.is_alive() for process in processes):
        time.sleep(0.02)
        if any(process.exitcode for process in processes):
            patience -= 0.02
            if patience < 0:
                for process in processes:
                    process.terminate()
                patience = seconds
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert None not in codes, f"a process did not end: {codes}"
    return codes


def run(words: list[str], log: Path, ranks: int = 1, change: Change | None = None, **more: Any) -> None:
    """Run a command to its good end; the arguments are those of `start`."""
    codes = finish(start(words, log, ranks, change, **more))
    assert codes == [0] * ranks, log.read_text()
