"""What goes wrong in a process, at a step of training: `processes.start` takes these."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

Change = partial[None]


def at(step: int, act: Callable[[Any], object], rank: int = 0) -> Change:
    """Let something happen on a rank before a training step; `act` is a function of this module's, or a part of it."""
    return partial(_at, step, rank, act)


def _at(step: int, rank: int, act: Callable[[Any], object]) -> None:
    from lit_bert import BertClassifier

    original = BertClassifier.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == step and self.trainer.global_rank == rank:
            act(self)
        return original(self, batch, batch_idx)

    BertClassifier.training_step = training_step  # type: ignore[method-assign]


def signal_at(step: int, number: int, rank: int = 0) -> Change:
    """Send a signal to this very process."""
    return at(step, partial(_send, number), rank)


def _send(number: int, module: Any) -> None:
    os.kill(os.getpid(), number)


def signal_in(hook: str, number: int, rank: int) -> Change:
    """Send a signal to this very process on a rank, in a hook of the module."""
    return partial(_in, hook, number, rank)


def _in(hook: str, number: int, rank: int) -> None:
    from lit_bert import BertClassifier

    original = getattr(BertClassifier, hook)

    def hooked(self: Any, *args: Any) -> Any:
        if self.trainer.global_rank == rank:
            os.kill(os.getpid(), number)
        return original(self, *args)

    setattr(BertClassifier, hook, hooked)


def signal_workers(module: Any) -> None:
    """Send SIGINT, as a terminal does, and SIGUSR1, as SLURM does, to the processes that assemble batches."""
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGUSR1):
            os.kill(worker.pid or 0, number)
    time.sleep(0.5)


def fail(module: Any) -> None:
    raise ZeroDivisionError("sabotage")


def overflow(module: Any) -> None:
    """Make a weight infinite."""
    with torch.no_grad():
        next(module.parameters())[:] = float("inf")


def devour(module: Any) -> None:
    """Ask for more memory than there is."""
    torch.empty(1 << 50)


def fill_disk(module: Any) -> None:
    """Let no file grow beyond 10 kB from then on."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))


def killed_while_writing(count: int) -> Change:
    """Be killed when a checkpoint is written for the count-th time, before it takes its name."""
    return partial(_interrupt_write, count)


def _interrupt_write(count: int) -> None:
    from zipfile import ZipFile

    left = [count]
    original = ZipFile.testzip

    def testzip(self: ZipFile) -> Any:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self)

    ZipFile.testzip = testzip  # type: ignore[method-assign]


def killed_while_exporting() -> None:
    """Be killed when the exported folder is whole, before it takes its name."""
    from lit_bert.inference import export

    def die(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    export.render_model_card = die  # type: ignore[assignment]
