"""Repositories of the Hugging Face Hub as local folders.

The Hub's own cache is asked first, so a file that was fetched once is never asked for again, and what cannot be had is
reported in seconds.
"""

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lit_bert.errors import UserError, reason

HUB_SECONDS = 2.5
"""How long the Hub may take to answer a first question before it counts as out of reach."""

_ENCODER_FILES = ["config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model"]
_SAFETENSORS = ["model*.safetensors", "model.safetensors.index.json"]
_PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
_DATA_FILES = ["README.md", "*.parquet", "*.csv", "*.json", "*.jsonl"]

T = TypeVar("T")


def call_with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise TimeoutError after `seconds`, whatever it hangs on (a name look-up, say)."""
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    returned, value = outcome[0]
    if not returned:
        raise value
    return value  # type: ignore[no-any-return]


def is_hub_id(name: str) -> bool:
    """Return whether a name can be a Hub id, with "@" and a revision or without, rather than a path."""
    return not name.startswith((".", "/", "~")) and name.partition("@")[0].count("/") <= 1


def find_in_cache(repo_id: str, kind: str) -> Path | None:
    """Return the folder of a Hub repository in the local Hugging Face cache, or None if it is not there whole."""
    from huggingface_hub import snapshot_download

    name, _, revision = repo_id.partition("@")
    find = partial(snapshot_download, name, repo_type=kind, revision=revision or None, local_files_only=True)
    for patterns in [_DATA_FILES] if kind == "dataset" else [_ENCODER_FILES + _SAFETENSORS, _ENCODER_FILES + _PICKLED]:
        try:
            folder = Path(find(allow_patterns=patterns))
        except (OSError, ValueError):
            continue
        if kind == "model":
            complete = has_weights(folder) and has_tokenizer(folder)
        else:
            complete = any(file.suffix != ".md" for file in folder.rglob("*") if file.is_file())
        if complete:
            return folder
    return None


def query_hub(repo_id: str, kind: str) -> Any:
    """Return what the Hub says of a repository (its files among it), whose id may end in "@" and a revision.

    Raises:
        OSError: There is no such repository, or the Hub cannot be reached within `HUB_SECONDS`.
    """
    from huggingface_hub import HfApi

    name, _, revision = repo_id.partition("@")
    query = partial(HfApi().repo_info, name, repo_type=kind, revision=revision or None, timeout=HUB_SECONDS)
    return call_with_timeout(HUB_SECONDS, query)


def fetch_from_hub(repo_id: str, kind: str) -> Path:
    """Return a local folder with the files of a Hub repository, from the Hugging Face cache or downloaded into it.

    Args:
        repo_id: The repository's id, such as "google-bert/bert-base-cased", with "@" and a revision (a commit, tag or
            branch) if that is pinned.
        kind: "model" or "dataset".

    Raises:
        UserError: The Hub cannot be reached, knows no such repository or revision, or wants a login for it.
    """
    cached = find_in_cache(repo_id, kind)
    if cached is not None:
        return cached
    from huggingface_hub import constants, errors, snapshot_download

    option = "--model.pretrained" if kind == "model" else "--data.dataset"
    where = f"{option} {repo_id}"
    packaged = f"to do without the Hub, give {option} packaged, or the path of a local folder"
    name, _, revision = repo_id.partition("@")
    try:
        names = {file.rfilename for file in query_hub(repo_id, kind).siblings or []}
        patterns = _DATA_FILES
        if kind == "model":
            patterns = _ENCODER_FILES + (_SAFETENSORS if any(n.endswith(".safetensors") for n in names) else _PICKLED)
        return Path(snapshot_download(name, repo_type=kind, revision=revision or None, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{where}: this {kind} is gated; ask for access at {constants.ENDPOINT}/{name}, then `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{where}: the Hub ({constants.ENDPOINT}) has no such revision of this {kind}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"{where}: the Hub ({constants.ENDPOINT}) has no such {kind}, and there is no such local folder; "
            "check the spelling (owner/name), or `hf auth login` if it is private"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"{where}: not in the Hugging Face cache, and HF_HUB_OFFLINE is set; {packaged}") from error
    except Exception as error:  # the Hub's client lets its HTTP library's own exceptions through
        raise UserError(
            f"{where}: not in the Hugging Face cache, and the Hub ({constants.ENDPOINT}) cannot be reached "
            f"({reason(error)}); check the network, or {packaged}"
        ) from error


def has_weights(folder: Path) -> bool:
    """Return whether a folder holds a model's weights, all shards of them, in safetensors or PyTorch's format."""
    for index in (*folder.glob("model.safetensors.index.json"), *folder.glob("pytorch_model.bin.index.json")):
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return bool(shards) and all((folder / shard).is_file() for shard in shards)
        except (ValueError, TypeError, KeyError, AttributeError):  # no index
            return False
    return any(any(folder.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer's vocabulary; without one, transformers makes every word unknown."""
    return any(any(folder.glob(pattern)) for pattern in ("tokenizer.json", "vocab.*", "*.model"))
