"""How batches reach a classifier of `transformers`."""

import inspect
from typing import TYPE_CHECKING, cast

from torch import Tensor

from lit_bert.errors import UserError, reason
from lit_bert.modeling import dropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def logits_of(model: "PreTrainedModel", inputs: dict[str, Tensor | None]) -> Tensor:
    """Return the logits, shape (rows, classes), of what a model takes of a batch.

    Entries of `inputs`, each of shape (rows, tokens), that are None or unknown to the model are left out.
    """
    known = inspect.signature(type(model).forward).parameters
    given = {name: value for name, value in inputs.items() if value is not None and name in known}
    if "attention_mask" in given and model.config._attn_implementation == dropout.ATTENTION:
        # transformers would check whether a 2-D mask masks anything, which waits for the GPU; it takes a 4-D one as is.
        given["attention_mask"] = given["attention_mask"][:, None, None, :].bool()
    try:
        return cast(Tensor, model(**given).logits)
    except (IndexError, RuntimeError, ValueError) as error:
        if "without overflow" in str(error):  # the mask is float32's lowest number, cast to a smaller type
            problem = f"cannot run in half precision ({reason(error)}); use --trainer.precision 32-true"
        elif isinstance(error, IndexError) or "must match the size" in str(error):
            tokens = next(iter(given.values())).shape[1]
            problem = f"failed with sentences of {tokens} tokens ({reason(error)}); lower --data.max_length"
        elif isinstance(error, ValueError):  # of an encoder that has to be told more than a text
            problem = f"cannot be used for texts alone ({reason(error)}); take another encoder"
        else:
            raise
        raise UserError(f"a {model.config.model_type} encoder {problem}") from error
