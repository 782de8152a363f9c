"""What the processes of a job that torchrun or SLURM started agree upon before Lightning connects them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from lit_bert.errors import UserError, reason


def launched_environment() -> TorchElasticEnvironment | SLURMEnvironment | None:
    """Return what torchrun or SLURM tells this process of the others; None if there is but one."""
    kinds = (TorchElasticEnvironment, SLURMEnvironment)
    environment = next((kind() for kind in kinds if kind.detect()), None)
    return None if environment is None or environment.world_size() == 1 else environment


@cache
def _store() -> Any:
    """Connect to rank 0; the launcher's own port belongs to the process group that Lightning makes later."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    environment = launched_environment()
    assert environment is not None
    rank, ranks = environment.global_rank(), environment.world_size()
    address, port = environment.main_address, environment.main_port
    port += 10_000 if port < 50_000 else -10_000  # far from the ports of other jobs on this node
    give_up = time.monotonic() + 60
    store, error = None, "no answer"
    while time.monotonic() < give_up:  # in short turns, between which Python sees signals
        try:
            store = store or TCPStore(address, port, ranks, rank == 0, timedelta(seconds=1), wait_for_workers=False)
            store.set(f"rank {rank} is here", "")
            if rank > 0 or store.check([f"rank {other} is here" for other in range(ranks)]):
                return store
            time.sleep(0.05)
        except RuntimeError as refused:
            error = reason(refused)
    raise UserError(
        f"rank {rank} of {ranks} cannot reach the others through {address}:{port} ({error}); let that port through"
    )


def _wait(key: str) -> str:
    """Return what rank 0 has set, which may take as long as a download; it is an error if rank 0 is gone."""
    store = _store()
    while not store.check([key]):
        time.sleep(0.05)
    return str(store.get(key).decode())


def from_rank_zero(key: str, compute: Callable[[], str]) -> str:
    """Return what rank 0 computes, on every rank; where there is but one process, its own result.

    Args:
        key: Tells this question from others.
        compute: Is called by rank 0 alone.

    Raises:
        UserError: The ranks cannot reach each other.
        torch.distributed.DistError: Rank 0 ended before it answered.
    """
    environment = launched_environment()
    if environment is None:
        return compute()
    store = _store()
    if environment.global_rank() > 0:
        return _wait(key)
    answer = compute()
    store.set(key, answer)
    return answer


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let rank 0 go through a block before the others, which find what it fetched; it alone reports a mistake."""
    environment = launched_environment()
    store = _store() if environment is not None else None  # before rank 0 may fail: the others see its connection end
    if environment is not None and environment.global_rank() > 0:
        _wait("rank 0 is through")
    yield
    if store is not None and environment is not None and environment.global_rank() == 0:
        store.set("rank 0 is through", "")


def join_launched_processes(trainer: Any) -> None:
    """Let a CPU run use the processes that torchrun started, where the Trainer is not told how many there are.

    Lightning takes one process by default, so that each would train on its own.

    Args:
        trainer: The Trainer's settings, changed in place.
    """
    environment = launched_environment()
    if environment is None or trainer.devices not in ("auto", None) or trainer.accelerator not in ("auto", "cpu"):
        return
    import torch

    if trainer.accelerator == "auto" and torch.accelerator.is_available():
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", environment.world_size()))
    trainer.devices, trainer.num_nodes = local, environment.world_size() // local


def check_launched_processes(world_size: int) -> None:
    """Refuse to train apart from the other processes that were launched.

    Raises:
        UserError: The Trainer uses another number of processes than torchrun or SLURM started.
    """
    environment = launched_environment()
    if isinstance(environment, TorchElasticEnvironment) and environment.world_size() != world_size:
        raise UserError(
            f"torchrun started {environment.world_size()} processes, but --trainer.devices times --trainer.num_nodes "
            f"is {world_size}; make them equal"
        )
