"""Low-rank adaptation (LoRA; Hu et al. 2021): small matrices are trained beside the encoder's own, which stay.

Their layers are those of `peft`, an extra. Predictions and exported folders have merged weights, which do not need it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lit_bert.errors import UserError

SCALE = 2.0
"""What the product of the two matrices is multiplied by, whatever their rank: `lora_alpha` is twice the rank."""

_POOLER = "pooler"
"""Part of the encoder that most checkpoints lack: it begins at random, and is trained as a whole, like the head."""


def add_adapters(model: Any, rank: int, targets: Sequence[str] | None) -> None:
    """Put adapters beside linear layers of a classifier's encoder, and freeze the rest of it.

    Args:
        model: A classifier of `transformers`.
        rank: Rank of the adapters, above 0.
        targets: Last part of the names of the layers, such as "query"; None takes all linear layers.

    Raises:
        UserError: `peft` is not installed, or the encoder has no such layers.
    """
    option = f"--model.lora_rank {rank}"
    if rank < 0:
        raise UserError(f"{option}: it must be at least 0")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as missing:
        raise UserError(f"{option}: install peft with pip install -e '.[lora]' -c constraints.txt") from missing
    base = model.base_model
    found = [name for name, part in base.named_modules() if isinstance(part, nn.Linear) and _POOLER not in name]
    if targets is not None:
        known = {name.rpartition(".")[2] for name in found}
        if unknown := sorted(set(targets) - known):
            raise UserError(
                f"--model.lora_targets {unknown[0]}: the linear layers of a {model.config.model_type} encoder are "
                f"{', '.join(sorted(known))}"
            )
        found = [name for name in found if name.rpartition(".")[2] in targets]
    if not found:
        raise UserError(f"{option}: a {model.config.model_type} encoder has no linear layers")
    config = LoraConfig(r=rank, lora_alpha=int(SCALE * rank), target_modules=found)
    inject_adapter_in_model(config, base)
    for name, parameter in base.named_parameters():
        if _POOLER in name:
            parameter.requires_grad_(True)


def check_adapters(state_dict: Mapping[str, Tensor], module: nn.Module) -> None:
    """Check that a module has the adapters of the checkpoint that it loads."""
    theirs, ours = (
        {name: len(value) for name, value in weights.items() if ".lora_A." in name}
        for weights in (state_dict, module.state_dict())
    )
    if theirs != ours:
        raise UserError(
            f"--model.lora_rank {max(ours.values(), default=0)}: the checkpoint has rank "
            f"{max(theirs.values(), default=0)}, in {len(theirs)} layers; leave out --model.lora_rank and lora_targets"
        )


def merge(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in which each adapter is added to the layer that it stands beside; others as they are."""
    merged = {}
    for name, value in state_dict.items():
        layer, separator, parameter = name.partition(".base_layer.")
        if ".lora_" in name:
            continue
        if separator and parameter == "weight":
            down, up = (state_dict[f"{layer}.lora_{part}.default.weight"] for part in "AB")
            value = value + SCALE * up @ down
        merged[f"{layer}.{parameter}" if separator else name] = value
    return merged
