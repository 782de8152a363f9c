"""How batches reach a classifier of `transformers`: as it is, or compiled for a few of their shapes.

Legend: B rows, T tokens, C classes.
"""

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn

from lit_bert.console import status
from lit_bert.errors import UserError, reason
from lit_bert.modeling import dropout

SHAPES = 8
"""As many as `torch.compile` makes anew for one function (its `recompile_limit`) before it silently gives up."""


class CompiledForward:
    """Calls a model compiled where a batch has one of the first 8 shapes, and as it is elsewhere.

    On a GPU each shape becomes a CUDA graph, which is launched as a whole, where the model itself has a launch for each
    of some hundred kernels: for batches this small they, not the arithmetic, are what a GPU waits for. A graph can
    serve but one device, and but one batch of an optimizer step.
    """

    def __init__(self, model: nn.Module, world_size: int = 1, accumulate_grad_batches: int = 1) -> None:
        self.model = model
        self.compiled: Any = None
        self.shapes: set[tuple[tuple[str, torch.Size], ...]] = set()
        if world_size > 1:
            self._give_up(f"cannot serve {world_size} devices")
        elif accumulate_grad_batches > 1:
            self._give_up("cannot accumulate gradients (pytorch/pytorch#169545)")
        else:
            self.compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)

    def __call__(self, **inputs: Tensor) -> Any:
        shape = tuple((name, value.shape) for name, value in inputs.items())
        if self.compiled is not None and (shape in self.shapes or len(self.shapes) < SHAPES):
            self.shapes.add(shape)
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            try:
                return self.compiled(**inputs)
            except torch._dynamo.exc.TorchDynamoException as error:  # no compiler, for example
                self._give_up(f"failed ({reason(error)})")
        return self.model(**inputs)

    def _give_up(self, why: str) -> None:
        self.compiled = None
        status("compile", f"--model.compile {why}; training goes on without")


def logits_of(model: Any, compiled: CompiledForward | None, inputs: dict[str, Tensor | None]) -> Tensor:
    """Return the logits, shape (B, C), of what a model takes of a batch, computed by `compiled` if there is one.

    Of `inputs`, each of shape (B, T), what is None or unknown to the model is left out.
    """
    known = inspect.signature(model.forward).parameters
    given = {name: value for name, value in inputs.items() if value is not None and name in known}
    if "attention_mask" in given and model.config._attn_implementation == dropout.ATTENTION:
        # transformers would look whether it masks anything, which waits for the GPU; it takes a 4-D one as it is.
        given["attention_mask"] = given["attention_mask"][:, None, None, :].bool()
    try:
        return cast(Tensor, (compiled or model)(**given).logits)
    except (IndexError, RuntimeError) as error:
        encoder = f"a {model.config.model_type} encoder"
        if "without overflow" in str(error):  # the mask's lowest number of float32 in a smaller type
            raise UserError(
                f"{encoder} cannot run in half precision ({reason(error)}); use --trainer.precision 32-true"
            ) from error
        if isinstance(error, IndexError) or "must match the size" in str(error):
            tokens = next(iter(given.values())).shape[1]
            raise UserError(
                f"{encoder} failed with sentences of {tokens} tokens ({reason(error)}); lower --data.max_length"
            ) from error
        raise


def mean_over_windows(values: Tensor, windows: Tensor | None) -> Tensor:
    """Return the mean of the rows of `values` (W, ...) that belong to one text: so many as `windows` (B,) says.

    None stands for one each.
    """
    if windows is None:
        return values
    return torch.segment_reduce(values.float(), "mean", lengths=windows)
