"""What the machine can do, how to get it, and what it has."""

import ctypes
import os
import platform
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.utils import benchmark


def has_fast_bf16(accelerator: str) -> bool:
    """Tell whether an accelerator such as "auto", "gpu" or "cpu" multiplies bfloat16 matrices in hardware here."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def measure_matmul_gflops(device: str, bf16: bool) -> float:
    """Return how fast "cpu" or "cuda" multiplies large matrices, in bfloat16 or float32, in GFLOP/s."""
    size = 8192 if device == "cuda" else 1024
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timer = benchmark.Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
    return 2 * size**3 / timer.blocked_autorange(min_run_time=0.2).median / 1e9


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks that were freed, in place of handing each back to the kernel and asking anew.

    A training step on the CPU frees and asks for the same hundreds of megabytes each time; each new page costs a fault.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD of malloc.h
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def processor_name() -> str:
    """Return the processor's name and how many cores it has here."""
    path = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", path.read_text()) if path.is_file() else None
    return f"{named[1] if named else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def package_version(package: str) -> str | None:
    """Return a package's version, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
