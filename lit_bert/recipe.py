"""Which recipe runs when the command line names none: one answer, in seconds, for all ranks of a job."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from lit_bert import sources
from lit_bert.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_DECIDED = "LIT_BERT_RECIPE"  # how the process that starts the other ranks tells them
_NEEDED = (("google-bert/bert-base-cased", "model"), ("cornell-movie-review-data/rotten_tomatoes", "dataset"))


def default_recipe() -> tuple[Path, str]:
    """Return the config file to run, and why: BERT-base if it can be had from the Hub, else the packaged encoder.

    Raises:
        UserError: The ranks of a job could not agree, for want of a connection between them.
    """
    name, _, why = (os.environ.get(_DECIDED) or _agree(lambda: ": ".join(_decide()))).partition(": ")
    os.environ[_DECIDED] = f"{name}: {why}"
    return CONFIGS / name, why


def _decide() -> tuple[str, str]:
    absent = [repo for repo in _NEEDED if sources.hub_cached(*repo) is None]
    if not absent:
        return "bert_base_cased.yaml", "its files are in the Hugging Face cache"
    try:
        sources.within(sources.HUB_SECONDS, lambda: [sources.hub_answers(*repo) for repo in absent])
    except Exception as error:  # whatever it is, the answer is the other recipe, and the reason is shown
        reason = (
            f"no answer within {sources.HUB_SECONDS} s" if isinstance(error, TimeoutError) else type(error).__name__
        )
        return "packaged.yaml", f"the Hugging Face Hub is out of reach ({reason})"
    return "bert_base_cased.yaml", "the Hugging Face Hub answers"


def _agree(decide: Callable[[], str]) -> str:
    """Return what rank 0 decides, on every rank that torchrun or SLURM started; elsewhere there is but one process."""
    kinds = (TorchElasticEnvironment, SLURMEnvironment)
    found = next((kind() for kind in kinds if kind.detect()), None)
    if found is None or found.world_size() == 1:
        return decide()
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    rank, ranks = found.global_rank(), found.world_size()
    try:
        # The launcher's own port belongs to the process group that Lightning makes later.
        store = TCPStore(found.main_address, found.main_port + 1, ranks, rank == 0, timedelta(seconds=60))
        if rank == 0:
            store.set("recipe", decide())
            store.wait([f"read by {other}" for other in range(1, ranks)])
        recipe = store.get("recipe").decode()
        store.set(f"read by {rank}", "")
    except RuntimeError as error:
        raise UserError(
            f"rank {rank} of {ranks} could not agree with the others on a recipe through "
            f"{found.main_address}:{found.main_port + 1} ({str(error).splitlines()[0]}); name one with --config"
        ) from error
    return recipe
