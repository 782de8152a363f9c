"""An exported folder as a repository of the Hugging Face Hub."""

from pathlib import Path

from lit_bert.errors import UserError, reason


def push_to_hub(folder: Path, repo_id: str, public: bool) -> str:
    """Upload an exported folder, in one commit, and return its address.

    A repository that is new is private unless it is to be `public`; one that is there keeps what it is.

    Raises:
        UserError: The id cannot be one, the Hub cannot be reached, or refuses it; the folder stays as it is.
    """
    from huggingface_hub import HfApi, constants, errors

    option, message = f"--push_to_hub {repo_id}", "Export of a fine-tuned classifier"
    try:
        address = HfApi().create_repo(repo_id, private=not public, exist_ok=True)
        HfApi().upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message=message)
    except errors.HFValidationError as error:
        raise UserError(f"{option}: give owner/name, of letters, digits and . _ - ({reason(error)})") from error
    except Exception as error:  # the Hub's client lets its HTTP library's own exceptions through
        refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403)
        advice = "log in with `hf auth login` and a token that may write" if refused else "the folder is as it was"
        raise UserError(f"{option}: {constants.ENDPOINT} says {reason(error)}; {advice}") from error
    return str(address)
