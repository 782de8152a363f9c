"""What the machine can do, and how to get it."""

import ctypes

import torch


def fast_bf16(accelerator: str) -> bool:
    """Tell whether this machine multiplies bfloat16 matrices in hardware.

    Args:
        accelerator: What the Trainer is told to use, such as "auto", "gpu" or "cpu".
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.backends.cpu.get_cpu_capability()
    return features == "AVX512" and bool(torch.cpu._is_avx512_bf16_supported())


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
