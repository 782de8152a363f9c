"""Which recipe runs when the command line names none: one answer, in seconds, for all ranks of a job."""

import os
from pathlib import Path

from lit_bert.data import hub, packaged
from lit_bert.run.ranks import from_rank_zero

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
"""The folder of the recipes: within an installed package, beside it in a clone."""

ROTTEN_TOMATOES = "cornell-movie-review-data/rotten_tomatoes"


def default_recipe(dataset: str | None = None, pretrained: str | None = None) -> tuple[Path, str]:
    """Return the config file to run, and why: BERT-base if it can be had from the Hub, else the packaged encoder.

    There is a recipe of each for Rotten Tomatoes, and one for any other data set; with that, `pretrained` decides.
    """
    own_data = dataset not in (None, ROTTEN_TOMATOES, packaged.PACKAGED)
    if own_data and pretrained:
        return CONFIGS / ("own_data_packaged.yaml" if pretrained == packaged.PACKAGED else "own_data.yaml"), "own data"
    variable = "LIT_BERT_RECIPE_OWN_DATA" if own_data else "LIT_BERT_RECIPE"  # tells ranks that this process starts
    answer = os.environ.get(variable) or from_rank_zero("recipe", lambda: ": ".join(_decide(own_data)))
    os.environ[variable] = answer
    name, _, why = answer.partition(": ")
    return CONFIGS / name, why


def _decide(own_data: bool) -> tuple[str, str]:
    bert, small = ("own_data", "own_data_packaged") if own_data else ("bert_base_cased", "packaged")
    needed = [("google-bert/bert-base-cased", "model"), (ROTTEN_TOMATOES, "dataset")][: 1 if own_data else 2]
    absent = [repository for repository in needed if hub.find_in_cache(*repository) is None]
    if not absent:
        return f"{bert}.yaml", "its files are in the Hugging Face cache"
    try:
        for repository in absent:
            hub.query_hub(*repository)
    except Exception as error:  # whatever it is, the answer is the other recipe, and the reason is shown
        why = error if isinstance(error, TimeoutError) else type(error).__name__
        return f"{small}.yaml", f"the Hugging Face Hub is out of reach ({why})"
    return f"{bert}.yaml", "the Hugging Face Hub answers"
