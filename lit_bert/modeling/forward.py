"""How batches reach a classifier of `transformers`.

Legend: B rows, T tokens, C classes.
"""

import inspect
from typing import Any, cast

from torch import Tensor

from lit_bert.errors import UserError, reason
from lit_bert.modeling import dropout
from lit_bert.modeling.compile import CompiledForward


def logits_of(model: Any, compiled: CompiledForward | None, inputs: dict[str, Tensor | None]) -> Tensor:
    """Return the logits, shape (B, C), of what a model takes of a batch.

    Args:
        model: A classifier of `transformers`.
        compiled: What is called in its place, if it was compiled.
        inputs: `input_ids`, `attention_mask` and `token_type_ids`, shape (B, T); what is None, or unknown to the
            model, is left out.

    Raises:
        UserError: The model cannot take sentences that long, or run in this precision.
    """
    known = inspect.signature(model.forward).parameters
    given = {name: value for name, value in inputs.items() if value is not None and name in known}
    if "attention_mask" in given and model.config._attn_implementation == dropout.ATTENTION:
        # transformers would look whether it masks anything, which waits for the GPU; it takes a 4-D one as it is.
        given["attention_mask"] = given["attention_mask"][:, None, None, :].bool()
    try:
        return cast(Tensor, (compiled or model)(**given).logits)
    except (IndexError, RuntimeError) as error:
        kind, tokens = model.config.model_type, cast(Tensor, inputs["input_ids"]).shape[1]
        if "without overflow" in str(error):  # the mask's lowest number of float32 in a smaller type
            raise UserError(
                f"a {kind} encoder cannot run in half precision ({reason(error)}); use --trainer.precision 32-true"
            ) from error
        if isinstance(error, IndexError) or "must match the size" in str(error):
            raise UserError(
                f"a {kind} encoder failed with sentences of {tokens} tokens ({reason(error)}); lower --data.max_length"
            ) from error
        raise
