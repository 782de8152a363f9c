"""Low-rank adaptation (LoRA; Hu et al. 2021): small matrices are trained beside the encoder's own, which stay.

Their layers are those of `peft`, an extra. `Predictor` and exported folders have merged weights, which do not need it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BaseFinetuning, ModelPruning
from torch import Tensor, nn

from lit_bert.errors import UserError, reason

SCALE = 2.0
"""What the product of the two matrices is multiplied by, whatever their rank: `lora_alpha` is twice the rank."""

_POOLER = "pooler"
"""Part of an encoder that some checkpoints lack, so that it begins at random: it is trained as a whole, as the head."""

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: Any, rank: int, targets: Sequence[str] | None) -> None:
    """Put adapters beside linear layers of a classifier's encoder, and freeze the rest of it, but for its pooler.

    Args:
        model: A classifier of `transformers`.
        rank: Rank of the adapters; 0 adds none.
        targets: Last part of the names of the layers, such as "query"; None takes all linear layers.

    Raises:
        UserError: `peft` is not installed, or the encoder has no such layers.
    """
    option = f"--model.lora_rank {rank}"
    if rank < 0:
        raise UserError(f"{option}: it must be at least 0")
    if rank == 0:
        if targets is not None:
            raise UserError(f"--model.lora_targets {', '.join(targets)}: set --model.lora_rank, too, such as 8")
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as missing:
        how = "pip install -e '.[lora]' -c constraints.txt"
        raise UserError(f"{option}: it needs peft ({reason(missing)}): {how}") from missing
    base = model.base_model
    layers = [name for name, part in base.named_modules() if isinstance(part, nn.Linear) and _POOLER not in name]
    known = {name.rpartition(".")[2] for name in layers}
    wanted = known if targets is None else set(targets)
    if not wanted or wanted - known:
        raise UserError(
            f"--model.lora_targets {', '.join(sorted(wanted - known)) or '[]'}: the linear layers of a "
            f"{model.config.model_type} encoder are {', '.join(sorted(known)) or 'none'}"
        )
    layers = [name for name in layers if name.rpartition(".")[2] in wanted]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=int(SCALE * rank), target_modules=layers), base)
    for name, parameter in base.named_parameters():
        if _POOLER in name:
            parameter.requires_grad_(True)


def check_callbacks(rank: int, callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks that would train, or replace, the encoder's own matrices."""
    for callback in callbacks if rank else ():
        if isinstance(callback, BaseFinetuning | ModelPruning):
            name = type(callback).__name__
            raise UserError(
                f"--model.lora_rank {rank}: it leaves the encoder as it is, and {name} changes it; leave one out"
            )


def check_adapters(state_dict: Mapping[str, Tensor], module: nn.Module) -> None:
    """Check that a module has the adapters of the checkpoint that it loads."""
    theirs, ours = (
        {name: len(value) for name, value in weights.items() if name.endswith(_DOWN)}
        for weights in (state_dict, module.state_dict())
    )
    if theirs != ours:
        raise UserError(
            f"--model.lora_rank {max(ours.values(), default=0)}, in {len(ours)} layers: the checkpoint has rank "
            f"{max(theirs.values(), default=0)} in {len(theirs)}; leave out --model.lora_rank and lora_targets"
        )


def merge(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which adapters are added, in float32, to the layers that they stand beside."""
    merged = {}
    for name, value in state_dict.items():
        layer, separator, parameter = name.partition(".base_layer.")
        down, up = f"{layer}{_DOWN}", f"{layer}{_UP}"
        if separator and down in state_dict and up in state_dict:
            if parameter == "weight":
                value = value.float() + SCALE * state_dict[up].float() @ state_dict[down].float()
            merged[f"{layer}.{parameter}"] = value
        elif not name.endswith((_DOWN, _UP)):
            merged[name] = value
    return merged
