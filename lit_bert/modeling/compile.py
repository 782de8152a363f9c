"""A model in training, compiled for a few shapes of batches; on a GPU each becomes a CUDA graph."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_bert.console import status

SHAPES = 8
"""As many as `torch.compile` makes anew for one function (its `recompile_limit`) before it silently gives up."""


class CompiledForward:
    """Calls a model compiled where a batch has one of the first 8 shapes, and as it is elsewhere.

    A CUDA graph is launched as a whole, where the model itself has a launch for each of some hundred kernels: for
    batches this small they, not the arithmetic, are what a GPU waits for.

    Args:
        model: A model of `transformers`; it stays as it is.
        world_size: Number of devices, of which a graph can serve but one.
        accumulate_grad_batches: Batches of an optimizer step, of which a graph can serve but one.
    """

    def __init__(self, model: nn.Module, world_size: int = 1, accumulate_grad_batches: int = 1) -> None:
        self.model = model
        self.run: Any = None
        self.shapes: set[tuple[tuple[str, torch.Size], ...]] = set()
        if world_size > 1:
            self._give_up(f"cannot serve {world_size} devices")
        elif accumulate_grad_batches > 1:
            self._give_up("cannot accumulate gradients (pytorch/pytorch#169545)")
        else:
            self.run = torch.compile(model, mode="reduce-overhead", dynamic=False)

    def __call__(self, **inputs: Tensor | None) -> Any:
        """Return the model's output; token ids have shape (B, T)."""
        shape = tuple((name, value.shape) for name, value in inputs.items() if value is not None)
        if self.run is not None and (shape in self.shapes or len(self.shapes) < SHAPES):
            self.shapes.add(shape)
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            try:
                return self.run(**inputs)
            except torch._dynamo.exc.TorchDynamoException as error:  # no compiler, for example
                self._give_up(f"failed ({str(error).strip().splitlines()[0]})")
        return self.model(**inputs)

    def _give_up(self, why: str) -> None:
        self.run = None
        status("compile", f"--model.compile {why}; training goes on without")
