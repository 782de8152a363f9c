"""Repositories of the Hugging Face Hub as local folders.

The Hub's own cache is asked first, so a file that was fetched once is never asked for again, and what cannot be had is
reported in seconds. An id may end in "@" and a revision (a commit, tag or branch); a kind is "model" or "dataset".
"""

import json
import multiprocessing
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from lit_bert.data.formats import COMPRESSED, TABLE_SUFFIXES
from lit_bert.errors import UserError, reason

HUB_SECONDS = 2.5
"""How long the Hub may take to answer a first question before it counts as out of reach."""

_ENCODER_FILES = ["config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"]
_FILES = {
    "dataset": [["README.md", *(f"*{suffix}{packed}" for suffix in TABLE_SUFFIXES for packed in ("", *COMPRESSED))]],
    "model": [
        [*_ENCODER_FILES, "model*.safetensors", "model.safetensors.index.json"],
        [*_ENCODER_FILES, "pytorch_model*.bin", "pytorch_model.bin.index.json"],
    ],
}
"""What is fetched of a repository: of a model pickled weights, if it has no others."""


def is_hub_id(name: str) -> bool:
    """Return whether a name can be a Hub id rather than a path."""
    return not name.startswith((".", "/", "~")) and name.partition("@")[0].count("/") <= 1


def find_in_cache(repo_id: str, kind: str) -> Path | None:
    """Return the folder of a Hub repository in the local Hugging Face cache, or None if it is not there whole."""
    from huggingface_hub import snapshot_download

    for patterns in _FILES[kind]:
        try:
            folder = Path(snapshot_download(**_address(repo_id, kind), allow_patterns=patterns, local_files_only=True))
        except (OSError, ValueError):
            continue
        if kind == "model" and has_weights(folder) and has_tokenizer(folder):
            return folder
        if kind == "dataset" and any(file.suffix != ".md" for file in folder.rglob("*") if file.is_file()):
            return folder
    return None


def query_hub(repo_id: str, kind: str) -> Any:
    """Return what the Hub says of a repository (its files among it); OSError if it does not in `HUB_SECONDS`."""
    from huggingface_hub import HfApi

    # The client's own limit leaves out the look-up of the Hub's name. Leaving the pool does not wait for its thread.
    address = {**_address(repo_id, kind), "timeout": 2 * HUB_SECONDS}
    with ThreadPool(1) as pool:
        try:
            return pool.apply_async(HfApi().repo_info, kwds=address).get(HUB_SECONDS)
        except multiprocessing.TimeoutError as error:
            raise TimeoutError(f"no answer within {HUB_SECONDS:g} s") from error


def _address(repo_id: str, kind: str) -> dict[str, Any]:
    name, _, revision = repo_id.partition("@")
    return {"repo_id": name, "repo_type": kind, "revision": revision or None}


def fetch_from_hub(repo_id: str, kind: str) -> Path:
    """Return a local folder with the files of a Hub repository, from the Hugging Face cache or downloaded into it."""
    if cached := find_in_cache(repo_id, kind):
        return cached
    from huggingface_hub import constants, errors, snapshot_download

    try:
        files = [file.rfilename for file in query_hub(repo_id, kind).siblings or []]
        patterns = _FILES[kind][0 if any(name.endswith(".safetensors") for name in files) else -1]
        return Path(snapshot_download(**_address(repo_id, kind), allow_patterns=patterns))
    except Exception as error:  # the Hub's client lets its HTTP library's own exceptions through
        option = "--model.pretrained" if kind == "model" else "--data.dataset"
        advice = f"to do without the Hub, give {option} packaged, or the path of a local folder"
        hub = f"the Hub ({constants.ENDPOINT})"
        match error:
            case errors.GatedRepoError():
                page = f"{constants.ENDPOINT}/{repo_id.partition('@')[0]}"
                problem = f"this {kind} is gated; ask for access at {page}, then `hf auth login`"
            case errors.RevisionNotFoundError():
                problem = f"{hub} has no such revision of this {kind}"
            case errors.RepositoryNotFoundError() | errors.HFValidationError():
                problem = f"{hub} has no such {kind}, and there is no such local folder; check the spelling "
                problem += "(owner/name), or `hf auth login` if it is private"
            case errors.OfflineModeIsEnabled():
                problem = f"not in the Hugging Face cache, and HF_HUB_OFFLINE is set; {advice}"
            case _:
                problem = f"not in the Hugging Face cache, and {hub} cannot be reached ({reason(error)}); "
                problem += f"check the network, or {advice}"
        raise UserError(f"{option} {repo_id}: {problem}") from error


def has_weights(folder: Path) -> bool:
    """Return whether a folder holds a model's weights, all shards of them, in safetensors or PyTorch's format."""
    indices = (folder / f"{name}.index.json" for name in ("model.safetensors", "pytorch_model.bin"))
    for index in filter(Path.is_file, indices):
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return bool(shards) and all((folder / shard).is_file() for shard in shards)
        except (ValueError, TypeError, KeyError, AttributeError):  # no index
            return False
    return any(any(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer's vocabulary; without one, transformers makes every word unknown."""
    return any(any(folder.glob(pattern)) for pattern in ("tokenizer.json", "vocab.*", "*.model"))
