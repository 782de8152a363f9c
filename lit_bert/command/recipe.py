"""Which recipe runs when the command line names none: one answer, in seconds, for all ranks of a job."""

import os
from pathlib import Path

from lit_bert.data import hub
from lit_bert.training.ranks import from_rank_zero

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_DECIDED = "LIT_BERT_RECIPE"  # how the process that starts the other ranks tells them
_REPOSITORIES = (("google-bert/bert-base-cased", "model"), ("cornell-movie-review-data/rotten_tomatoes", "dataset"))


def default_recipe() -> tuple[Path, str]:
    """Return the config file to run, and why: BERT-base if it can be had from the Hub, else the packaged encoder.

    Raises:
        UserError: The ranks of a job could not agree, for want of a connection between them.
    """
    answer = os.environ.get(_DECIDED) or from_rank_zero("recipe", lambda: ": ".join(_decide()))
    os.environ[_DECIDED] = answer
    name, _, why = answer.partition(": ")
    return CONFIGS / name, why


def _decide() -> tuple[str, str]:
    absent = [repository for repository in _REPOSITORIES if hub.find_in_cache(*repository) is None]
    if not absent:
        return "bert_base_cased.yaml", "its files are in the Hugging Face cache"
    try:
        hub.call_with_timeout(hub.HUB_SECONDS, lambda: [hub.query_hub(*repository) for repository in absent])
    except Exception as error:  # whatever it is, the answer is the other recipe, and the reason is shown
        timed_out = isinstance(error, TimeoutError)
        why = f"no answer within {hub.HUB_SECONDS} s" if timed_out else type(error).__name__
        return "packaged.yaml", f"the Hugging Face Hub is out of reach ({why})"
    return "bert_base_cased.yaml", "the Hugging Face Hub answers"
