"""Digests of the files of a checkpoint: a file that is missing or has changed is found before anything is loaded."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from stellar_hub.modeling.limits import check_limit
from stellar_hub.modeling.safe_text import one_line

DIGESTS_FILE = "digests.json"


def write_digests(folder: Path) -> None:
    """Writes the SHA-256 of each file of a folder into its `digests.json`.

    Raises:
        OSError: if a file cannot be read or written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != DIGESTS_FILE)
    digests = {path.name: file_digest(path) for path in files}
    (folder / DIGESTS_FILE).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def check_digests(folder: Path, required: Sequence[str]) -> None:
    """Checks that all files of a checkpoint are there, and are those that were saved.

    Args:
        folder: Folder of the checkpoint.
        required: Names of the files that must be there if the folder has no `digests.json`, which is the case for
            checkpoints of earlier releases.

    Raises:
        FileNotFoundError: if a file is missing; the message names it.
        ValueError: if a file has changed; the message names it.
        OSError: if a file cannot be read.
    """
    digests = read_digests(folder) if (folder / DIGESTS_FILE).is_file() else dict.fromkeys(required)
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, so {folder} cannot be resumed")
        if digest is not None and file_digest(path) != digest:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {DIGESTS_FILE}")


def read_digests(folder: Path) -> dict[str, str]:
    """Reads the digests of a checkpoint by the names of the files.

    Raises:
        ValueError: if the file is damaged, or names a file elsewhere.
    """
    path = folder / DIGESTS_FILE
    check_limit("config_bytes", path.stat().st_size, str(path))
    try:
        digests = json.loads(path.read_bytes())
        damaged = not all(isinstance(digest, str) and Path(name).name == name for name, digest in digests.items())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    if damaged:
        raise ValueError(f"{path} is damaged: it must hold the digests of the files beside it")
    return dict(digests)


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
