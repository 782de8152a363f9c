"""The training pass of a classifier of `transformers` as CUDA graphs, one for each shape of its batches.

A GPU waits, with batches this small, for the launches of some hundred kernels, not for arithmetic. A graph is launched
as a whole.
"""

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lit_bert.console import status
from lit_bert.errors import UserError, reason
from lit_bert.module import BertClassifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import SequenceClassifierOutput

MOST_SHAPES = 16
"""Shapes that are recorded; batches of other shapes are computed without a graph."""


class CudaGraphs(Callback):
    """Trains a `BertClassifier` through CUDA graphs, on GPUs with the whole model on each; elsewhere it does nothing.

    In training, the forward method of its `transformers` model is replaced; results are the same, to the last bit. Pad
    batches to a few lengths (`--data.padding`): each is recorded once.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = getattr(trainer.train_dataloader, "batch_size", None)
        is_whole = type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)  # others split the parameters
        if isinstance(pl_module, BertClassifier) and pl_module.device.type == "cuda" and is_whole and rows:
            pl_module.model.forward = GraphedForward(pl_module.model, rows)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Free the graphs' memory; CUDA graphs cannot be deep-copied, either."""
        if isinstance(pl_module, BertClassifier):
            vars(pl_module.model).pop("forward", None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


class GraphedForward:
    """Calls a classifier of `transformers` by CUDA graphs where it can, and as it is elsewhere.

    Graphs serve batches of `rows` rows, of up to `MOST_SHAPES` shapes. Unlike `torch.cuda.make_graphed_callables`, they
    share one buffer of gradients: a batch whose forward pass follows another's, with no backward pass in between, is
    computed without. Forward hooks of the model's parts run only while a graph is recorded.
    """

    def __init__(self, model: "PreTrainedModel", rows: int) -> None:
        self.forward, self.rows = model.forward, rows
        self._parts, self._parameters = list(model.modules()), list(model.parameters())
        self._graphs: dict[object, Graph] | None = {}  # None if they cannot serve this model
        self._state: object = None  # the model's state when they were recorded
        self._trained: list[nn.Parameter] = []
        self._gradients: Tensor | None = None
        self._pool: Any = None
        self._last: Any = lambda: None  # a weak reference to the last replay

    def __call__(self, **inputs: Tensor) -> "SequenceClassifierOutput":
        """Return `logits`, shape (B, C), for what the model takes, each of shape (B, T) or more."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        graph = self._graph(inputs)
        if graph is None:
            return self.forward(**inputs)
        replay = Replay()
        self._last = weakref.ref(replay)
        logits = _Replayed.apply(graph, replay, *inputs.values(), *self._trained)  # type: ignore[no-untyped-call]
        return SequenceClassifierOutput(logits=logits)

    def _graph(self, inputs: dict[str, Tensor]) -> "Graph | None":
        """Return the graph for a batch, recorded if it is the first of its shape; None if there can be none."""
        last = self._last()
        waits = last is not None and not last.done
        if self._graphs is None or waits or len(inputs["input_ids"]) != self.rows or not torch.is_grad_enabled():
            return None
        state = (
            [(parameter.requires_grad, parameter.data_ptr()) for parameter in self._parameters],
            [part.training for part in self._parts],
            torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda"),
        )
        if state != self._state:  # parameters were frozen, moved or replaced, or parts put into another mode
            self._state, self._graphs, self._gradients, self._pool = state, {}, None, None
        shape = tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        if shape not in self._graphs and len(self._graphs) < MOST_SHAPES:
            try:
                self._graphs[shape] = self._record(inputs)
            except RuntimeError as error:  # the model waits for the GPU, or there is too little memory
                self._graphs = self._gradients = self._pool = None
                torch.cuda.empty_cache()
                status("graphs", f"CUDA graphs cannot serve this model ({reason(error)}); training goes on without")
                return None
        return self._graphs.get(shape)

    def _record(self, inputs: dict[str, Tensor]) -> "Graph":
        """Record both passes of a batch; random numbers are drawn as if it had not been done."""
        random_state = torch.cuda.get_rng_state()
        inputs = {name: value.clone() for name, value in inputs.items()}
        wanted = [parameter for parameter in self._parameters if parameter.requires_grad]
        forward, backward, stream = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # Weights that autocast keeps for their next use would be those of this step for ever.
        dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", dtype=dtype, enabled=enabled, cache_enabled=False):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # a first use sets up things that cannot be recorded
                logits = self.forward(**inputs).logits
                gradients = torch.autograd.grad(logits, wanted, torch.zeros_like(logits), allow_unused=True)
            torch.cuda.current_stream().wait_stream(stream)
            if self._gradients is None:
                found = zip(wanted, gradients, strict=True)
                self._trained = [parameter for parameter, gradient in found if gradient is not None]
                self._gradients = torch.empty(sum(p.numel() for p in self._trained), device=logits.device)
            del logits, gradients
            with torch.cuda.graph(forward, self._pool, stream, "thread_local"):
                logits = self.forward(**inputs).logits
            logits_gradient, self._pool = torch.zeros_like(logits), forward.pool()
            with torch.cuda.graph(backward, self._pool, stream, "thread_local"):
                gradients = torch.autograd.grad(logits, self._trained, logits_gradient)
                torch.cat([gradient.reshape(-1) for gradient in gradients], out=self._gradients)
        torch.cuda.set_rng_state(random_state)
        return Graph(forward, backward, list(inputs.values()), logits.detach(), logits_gradient, self._gradients)


class Graph(NamedTuple):
    """The passes of one shape, and the memory that they read and write; `gradients` are those of all parameters."""

    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    logits: Tensor
    logits_gradient: Tensor
    gradients: Tensor


class Replay:
    """One use of a graph; `done` after its backward pass."""

    done = False


class _Replayed(torch.autograd.Function):
    """A graph's passes as autograd sees them: parameters in, logits out."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, replay: Replay, *tensors: Tensor) -> Tensor:
        for static, value in zip(graph.inputs, tensors, strict=False):
            static.copy_(value, non_blocking=True)
        ctx.graph, ctx.replay, ctx.parameters = graph, replay, tensors[len(graph.inputs) :]
        graph.forward.replay()
        return graph.logits.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logits_gradient: Tensor) -> Any:
        graph, parameters = ctx.graph, ctx.parameters
        if ctx.replay.done:
            raise UserError("a second backward pass through a CUDA graph: train with --model.cuda_graphs false")
        ctx.replay.done = True
        for parameter in parameters:
            if parameter.grad is not None:  # accumulated from batches before, it may be the buffer itself
                parameter.grad = parameter.grad.clone()
        graph.logits_gradient.copy_(logits_gradient)
        graph.backward.replay()
        gradients = graph.gradients.split([parameter.numel() for parameter in parameters])
        shaped = [gradient.view_as(parameter) for gradient, parameter in zip(gradients, parameters, strict=True)]
        return None, None, *(None for _ in graph.inputs), *shaped
