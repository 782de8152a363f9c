"""Ends of runs that take no longer than the runs: figures without pixels, and no measurement of the machine."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.tensorboard import writer


def no_pixels(figure: Any, close: bool) -> Any:
    return np.zeros((3, 4, 4), np.uint8)


def no_rate(device: str, bf16: bool) -> float:
    return 100.0


def end_quickly(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace what draws a figure that was made, and what finds how fast this machine multiplies matrices."""
    from lit_bert.callbacks import throughput

    replace(writer, "figure_to_image", no_pixels)
    replace(throughput, "measure_matmul_gflops", no_rate)
