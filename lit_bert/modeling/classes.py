"""Names of a classifier's classes, which its config holds in the order of their numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_bert.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def class_names(config: "PreTrainedConfig") -> list[str]:
    """Return the names of a classifier's classes, in the order of their numbers."""
    return [str(config.id2label[number]) for number in range(config.num_labels)]


def set_class_names(config: "PreTrainedConfig", class_names: Sequence[str]) -> None:
    """Give a classifier's config classes of these names."""
    config.num_labels = len(class_names)
    config.id2label = dict(enumerate(class_names))
    config.label2id = {name: number for number, name in enumerate(class_names)}


def name_classes(config: "PreTrainedConfig", data: object, new_head: bool) -> bool:
    """Name the classes of a new head in its config as a data module does; return whether that changed anything.

    Raises:
        UserError: The data module has other classes than a head that is trained, or than its number of classes.
    """
    own = class_names(config)
    names = getattr(data, "class_names", own)
    if list(names) == own:
        return False
    if not new_head or len(names) != len(own):
        raise UserError(
            f"the model's classes are {', '.join(own)}, those of --data.dataset {getattr(data, 'dataset', data)} are "
            f"{', '.join(names)}; they must be the same, in the same order: "
            "BertClassifier(class_names=data.class_names)"
        )
    set_class_names(config, names)
    return True


def untrained(source: str, config: "PreTrainedConfig") -> UserError:
    """Return the error that a classifier, whose head is new, cannot be used yet."""
    names = ", ".join(class_names(config))
    return UserError(
        f"{source}: it has no trained classifier for {names}; give a fine-tuned checkpoint with --ckpt_path"
    )
