"""A model in training, compiled for a few shapes of batches; on a GPU each becomes a CUDA graph."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

SHAPES = 8
"""As many as `torch.compile` makes anew for one function (its `recompile_limit`) before it silently gives up."""


class Graphs:
    """Calls a model compiled where a batch has one of the first 8 shapes, and as it is elsewhere.

    A CUDA graph is launched as a whole, where the model itself has a launch for each of some hundred kernels: for
    batches this small they, not the arithmetic, are what a GPU waits for.

    Args:
        model: A model of `transformers`; it stays as it is.
        trainer: Says where graphs cannot serve.
    """

    def __init__(self, model: nn.Module, trainer: Trainer) -> None:
        self.model = model
        self.trainer = trainer
        self.run: Any = None
        self.shapes: set[tuple[torch.Size, bool]] = set()
        if trainer.world_size > 1:
            self._give_up(f"cannot serve {trainer.world_size} devices")
        elif trainer.accumulate_grad_batches > 1:
            self._give_up("cannot accumulate gradients (pytorch/pytorch#169545)")
        else:
            self.run = torch.compile(model, mode="reduce-overhead", dynamic=False)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None) -> Any:
        """Return the model's output; token ids have shape (B, T)."""
        shape = (input_ids.shape, attention_mask is None)
        if self.run is not None and (shape in self.shapes or len(self.shapes) < SHAPES):
            self.shapes.add(shape)
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            try:
                return self.run(input_ids=input_ids, attention_mask=attention_mask)
            except torch._dynamo.exc.TorchDynamoException as error:  # no compiler, for example
                self._give_up(f"failed ({str(error).strip().splitlines()[0]})")
        return self.model(input_ids=input_ids, attention_mask=attention_mask)

    def _give_up(self, reason: str) -> None:
        self.run = None
        self.trainer.print(f"compile  --model.compiled {reason}; training goes on without")
