"""What the machine can do, and how to get it."""

import ctypes
import os
import platform
import statistics
import time
from pathlib import Path

import torch


def has_fast_bf16(accelerator: str) -> bool:
    """Tell whether this machine multiplies bfloat16 matrices in hardware.

    Args:
        accelerator: What the Trainer is told to use, such as "auto", "gpu" or "cpu".
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def measure_matmul_gflops(device: str, bf16: bool) -> float:
    """Return how fast a device multiplies large matrices, in GFLOP/s, measured in a fraction of a second.

    Args:
        device: "cpu", or "cuda" for the current GPU.
        bf16: Whether in bfloat16; else in float32.
    """
    size = 8192 if device == "cuda" else 1024
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(7):
        begun = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / statistics.median(seconds[2:]) / 1e9


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks that were freed, in place of handing each back to the kernel and asking anew.

    A training step on the CPU frees and asks for the same hundreds of megabytes each time, among them the gradient of
    the word embeddings; each new page costs a fault. Other C libraries are left as they are.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, (1 << 31) - 1)


def processor_name() -> str:
    """Return the processor's name and how many cores it has here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"
