"""How batches reach a classifier of `transformers`.

Legend: B rows, T tokens, C classes.
"""

import inspect
from typing import Any, cast

from torch import Tensor

from lit_bert.callbacks.cuda_graphs import GraphedForward
from lit_bert.errors import UserError, reason
from lit_bert.modeling import dropout


def logits_of(model: Any, graphed: GraphedForward | None, inputs: dict[str, Tensor | None]) -> Tensor:
    """Return the logits, shape (B, C), of what a model takes of a batch, computed by `graphed` if there is one.

    Of `inputs`, each of shape (B, T), what is None or unknown to the model is left out.
    """
    known = inspect.signature(model.forward).parameters
    given = {name: value for name, value in inputs.items() if value is not None and name in known}
    if "attention_mask" in given and model.config._attn_implementation == dropout.ATTENTION:
        # transformers would look whether it masks anything, which waits for the GPU; it takes a 4-D one as it is.
        given["attention_mask"] = given["attention_mask"][:, None, None, :].bool()
    try:
        return cast(Tensor, graphed(**given) if graphed else model(**given).logits)
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
