"""Dropout whose random numbers cost little on a CPU, in hidden layers and in attention.

PyTorch's draws take a sixth of a training step of a small BERT. Here four elements share one 64-bit draw of a faster
generator, seeded from PyTorch's at each call, so that seeds and saved random states count as ever. An element is kept
with a probability that is 1 - p to within 2**-17.

Legend: B rows, H heads, T tokens, D numbers per head.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION = "lit_bert"
"""The name under which `transformers` finds `attention`."""


def scaled_mask(like: Tensor, p: float) -> Tensor:
    """Return a tensor shaped like `like`, which is on the CPU, of 0, with probability `p` < 1, and else 1 / (1 - p)."""
    dropped = round(p * 65536)
    draws = np.random.SFC64(int(torch.randint(1 << 62, ()))).random_raw(-(-like.numel() // 4))
    bits = torch.from_numpy(draws.view(np.int16))[: like.numel()].view(like.shape)
    kept = torch.empty(like.shape, dtype=like.dtype)
    torch.ge(bits, dropped - 32768, out=kept)  # to compare first and convert then takes ten times as long
    return kept.mul_(65536 / (65536 - dropped))


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with `scaled_mask` on a CPU."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        register()  # the model may have been sent to a process that was spawned

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not 0 < self.p < 1 or not input.is_cpu:
            return super().forward(input)
        return input * scaled_mask(input, self.p)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return the heads' outputs, shape (B, T, H, D), of query, key and value, each (B, H, T, D).

    On a CPU, PyTorch's fused attention cannot drop weights: it falls back to this computation with its own random
    numbers. `attention_mask` is true where a token may be attended to, broadcast to (B, H, T, T); None is everywhere.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not query.is_cpu or not dropout:
        kwargs |= {"dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)  # faster than in bfloat16
    return ((weights * scaled_mask(weights, dropout)) @ value).transpose(1, 2), None


def register() -> None:
    """Let `transformers` find `attention` by its name in this process."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def install(model: nn.Module) -> None:
    """Give a model of `transformers` this dropout, and a BERT this attention."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
    config: Any = model.config
    if config.model_type == "bert" and config._attn_implementation == "sdpa":
        register()
        model.set_attn_implementation(ATTENTION)  # type: ignore[operator]
