"""torch's threads on a CPU: as many as this process may use, and considerate of other processes."""

import contextlib
import os
import threading
import time
from pathlib import Path

import torch
from joblib import cpu_count

SECONDS, DELAY = 0.5, 0.1
"""Time between two looks at the load, and the share of it that threads wait for a core if others want it, too."""

LOOKS_UNTIL_BUSY, LOOKS_UNTIL_QUIET = 2, 10
"""Looks in a row that make a machine count as busy, and as quiet again."""


def limit_threads() -> None:
    """Use no more threads than cores, of which a container's quota (cgroup) may leave fewer than torch sees.

    `OMP_NUM_THREADS`, if it is set, decides instead.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), cpu_count()))


class LoadMonitor:
    """A context in which torch's threads sleep while they wait for each other, if other processes want the same cores.

    At the end of each parallel loop threads spin until the last one is done, and may keep it from a core. OpenMP's GNU
    library lets them sleep if it has more threads than there are cores. Pools of idle threads make it so, and are
    dropped when the others are done. What is computed, and by how many threads, is the same.

    Nothing happens if `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` is set, which decide then, with a single thread, or where
    Linux does not tell how long threads waited for a core.
    """

    def __init__(self) -> None:
        self._in_a_row = 0  # looks that say otherwise than now
        self._release: threading.Event | None = None  # ends the pools that there are
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load monitor", daemon=True)

    def __enter__(self) -> "LoadMonitor":
        decided = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
        if not decided and seconds_delayed() is not None and pools_needed():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._release is not None:
            self._release.set()

    def _run(self) -> None:
        before, since = seconds_delayed() or 0.0, time.monotonic()
        while not self._end.wait(SECONDS):
            delayed, now = seconds_delayed() or 0.0, time.monotonic()
            self.look((delayed - before) / (now - since))
            before, since = delayed, now

    def look(self, delay: float) -> None:
        """Make idle pools or drop them, after some looks in a row; `delay` is the share of time waited for a core."""
        busy = delay > DELAY
        self._in_a_row = self._in_a_row + 1 if busy == (self._release is None) else 0
        if self._in_a_row < (LOOKS_UNTIL_BUSY if busy else LOOKS_UNTIL_QUIET):
            return
        self._in_a_row = 0
        if self._release is None:
            self._release = threading.Event()
            for _ in range(pools_needed()):
                threading.Thread(target=_keep_pool, args=[self._release], name="idle pool", daemon=True).start()
        else:
            self._release.set()
            self._release = None


def pools_needed() -> int:
    """Return how many pools beside that of training make more threads than cores; 0 if others have room anyway."""
    threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    pools = (cores - threads) // (threads - 1) + 1 if 1 < threads <= cores else 0
    return pools if pools <= 2 else 0


def seconds_delayed() -> float | None:
    """Return for how long this process's threads were ready to run without a core; None if that cannot be known."""
    if not Path("/proc/self/schedstat").is_file():
        return None
    nanoseconds = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            nanoseconds += int((task / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9


def _keep_pool(release: threading.Event) -> None:
    torch.ones(torch.get_num_threads() << 16).add_(1)  # in parallel; the pool lives as long as this thread
    release.wait()
