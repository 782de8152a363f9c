"""What the processes of a job that torchrun or SLURM started agree upon before Lightning connects them."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed

from lit_bert.errors import UserError, reason


def launched_environment() -> TorchElasticEnvironment | SLURMEnvironment | None:
    """Return what torchrun or SLURM tells this process of the others; None if there is but one."""
    environment = next((kind() for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()), None)
    return None if environment is None or environment.world_size() == 1 else environment


@cache
def _store() -> "distributed.TCPStore":  # type: ignore[name-defined]
    """Connect to rank 0; the launcher's own port belongs to the process group that Lightning makes later."""
    environment = launched_environment()
    assert environment is not None
    rank, ranks = environment.global_rank(), environment.world_size()
    address, port = environment.main_address, environment.main_port
    port += 10_000 if port < 50_000 else -10_000  # far from the ports of other jobs on this node
    patience = timedelta(seconds=40 if rank > 0 else 60)  # after half as long again a client tries once more
    try:
        return distributed.TCPStore(address, port, ranks, rank == 0, patience)  # type: ignore[attr-defined]
    except RuntimeError as error:
        what = f"rank {rank} of {ranks} cannot reach the others through {address}:{port} ({reason(error)})"
        raise UserError(f"{what}; let that port through") from error


def from_rank_zero(key: str, compute: Callable[[], str]) -> str:
    """Return what rank 0 computes, on every rank, or fail if it has ended; `key` tells this question from others."""
    environment = launched_environment()
    if environment is None:
        return compute()
    store = _store()
    if environment.global_rank() == 0:
        store.set(key, compute())
    while not store.check([key]):  # rank 0 may take as long as a download; between the looks Python sees signals
        time.sleep(0.05)
    return str(store.get(key).decode())


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Let rank 0 go through a block before the others, which find what it fetched; it alone reports a mistake."""
    environment = launched_environment()
    if environment is not None and environment.global_rank() > 0:
        from_rank_zero("rank 0 is through", str)
        yield
        return
    if environment is not None:
        _store()  # before rank 0 may fail: the others see its connection end
    yield
    from_rank_zero("rank 0 is through", str)


def join_launched_processes(trainer: Namespace) -> None:
    """Let a CPU run use the processes that torchrun started, where the Trainer's settings do not say how many.

    Lightning takes one process by default, so that each would train on its own.
    """
    environment = launched_environment()
    if environment is None or trainer.devices not in ("auto", None) or trainer.accelerator not in ("auto", "cpu"):
        return
    if trainer.accelerator == "auto" and torch.accelerator.is_available():
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", environment.world_size()))
    trainer.devices, trainer.num_nodes = local, environment.world_size() // local


def check_launched_processes(world_size: int) -> None:
    """Refuse a Trainer that uses another number of processes than torchrun started."""
    environment = launched_environment()
    if isinstance(environment, TorchElasticEnvironment) and environment.world_size() != world_size:
        what = f"torchrun started {environment.world_size()} processes, but --trainer.devices times --trainer.num_nodes"
        raise UserError(f"{what} is {world_size}; make them equal")
