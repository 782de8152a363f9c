"""Checksums of an exported folder, as `sha256sum --check SHA256SUMS` reads them: safetensors has none."""

import hashlib
from pathlib import Path

from lit_bert.errors import UserError

SUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Write the checksums of a folder's files into it; of all but the model card, which people edit."""
    files = sorted(file for file in folder.iterdir() if file.name not in (SUMS, "README.md"))
    lines = [f"{_sha256(file)}  {file.name}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def verify_checksums(folder: Path) -> None:
    """Compare them, if the folder has them.

    Raises:
        UserError: A file is damaged, was changed or is gone.
    """
    if not (folder / SUMS).is_file():
        return
    for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        wanted, _, name = line.partition("  ")
        file = folder / Path(name).name
        if not file.is_file() or _sha256(file) != wanted:
            raise UserError(
                f"{file}: it is not as it was exported (its checksum in {SUMS} is another one); export it again, or "
                f"delete {SUMS} if you changed it"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
