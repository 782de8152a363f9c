import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from conftest import Patch
from torch.nn import functional as F

from lit_bert.run import openmp
from lit_bert.run.openmp import LOOKS_UNTIL_BUSY, LOOKS_UNTIL_QUIET, LoadMonitor, limit_threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: Patch) -> Iterator[None]:
    """Compute with two threads on as many cores, whatever the machine, and whatever decides there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(threads)


def idle_pools() -> int:
    return sum(thread.name == "idle pool" for thread in threading.enumerate())


def wait_until(condition: object, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        torch.ones(1 << 20).add_(1)
    return bool(condition())


def is_looking() -> bool:
    return any(thread.name == "load monitor" for thread in threading.enumerate())


def test_pools_are_made_on_a_busy_machine_and_dropped_on_a_quiet_one() -> None:
    monitor = LoadMonitor()
    monitor.look(0.5)
    monitor.look(0.0)
    for _ in range(LOOKS_UNTIL_BUSY):
        assert idle_pools() == 0
        monitor.look(0.5)
    assert idle_pools() == 1
    for _ in range(LOOKS_UNTIL_QUIET - 1):
        monitor.look(0.0)
    monitor.look(0.5)
    for _ in range(LOOKS_UNTIL_QUIET):
        assert idle_pools() == 1
        monitor.look(0.0)
    assert wait_until(lambda: idle_pools() == 0)


def test_results_are_the_same_with_idle_pools() -> None:
    def gradients() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(512, 512, generator=generator).requires_grad_() for _ in range(3)]
        hidden = F.layer_norm(F.gelu(tensors[0] @ tensors[1]), (512,)).softmax(dim=-1)
        (hidden @ tensors[2]).square().mean().backward()
        return [tensor.grad for tensor in tensors]

    before, monitor = gradients(), LoadMonitor()
    for _ in range(LOOKS_UNTIL_BUSY):
        monitor.look(1.0)
    assert all(map(torch.equal, before, gradients()))
    for _ in range(LOOKS_UNTIL_QUIET):
        monitor.look(0.0)


@pytest.mark.skipif(openmp.seconds_delayed() is None, reason="this kernel does not tell of delays")
def test_other_processes_are_noticed() -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in range(2 * (openmp.os.cpu_count() or 1))]
    try:
        with LoadMonitor():
            assert is_looking()
            assert wait_until(lambda: idle_pools() == 1)
        assert not is_looking()
        assert wait_until(lambda: idle_pools() == 0)
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.parametrize("decided", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "one thread", "few threads"])
def test_nothing_is_done_where_it_is_decided_or_of_no_use(decided: str, monkeypatch: Patch) -> None:
    if decided == "one thread":
        torch.set_num_threads(1)
    elif decided == "few threads":
        monkeypatch.setattr(openmp.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    else:
        monkeypatch.setenv(decided, "PASSIVE")
    with LoadMonitor():
        assert not is_looking()


def test_no_more_threads_than_a_quota_leaves(monkeypatch: Patch) -> None:
    monkeypatch.setattr(openmp, "cpu_count", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    limit_threads()
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads()
    assert torch.get_num_threads() == 1
