"""Downloads of published files with the Hub client, its cache and its endpoint, and a check of what arrived."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.registry import HubFile

SHA256 = re.compile(r"[0-9a-f]{64}")
OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
CHUNK = 1 << 22


def fetch(file: HubFile, **options: Any) -> Path:
    """Returns the path of a file in the Hub client's cache, and downloads the file if it is not there.

    A downloaded file is compared with its SHA-256: the registry's, else the one under which the Hub stores large
    files. A file that differs is removed.

    Args:
        file: File to download, at its pinned commit.
        **options: `cache_dir`, `force_download`, `local_files_only`, `token` and `revision` of `hf_hub_download`.

    Raises:
        OSError: if the file is not in the cache and cannot be downloaded; the error says how to work offline.
        ValueError: if the file's content is not what was published.
    """
    options = {name: value for name, value in options.items() if value is not None}
    revision = options.pop("revision", file.revision)
    cached = try_to_load_from_cache(file.repository, file.name, cache_dir=options.get("cache_dir"), revision=revision)
    try:
        path = Path(hf_hub_download(file.repository, file.name, revision=revision, **options))
    except (HTTPError, OSError, ValueError) as error:  # the client's ValueError: a forced download failed
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk failed, not the Hub
        raise OSError(unreachable_message(file, revision, error)) from error
    was_there = isinstance(cached, str) and path.samefile(cached)
    if not was_there or options.get("force_download"):
        verify(path, file.sha256 if revision == file.revision else None)
    return path


def unreachable_message(file: HubFile, revision: str, error: Exception) -> str:
    """Returns an error message: what was tried, why it failed, and what to do."""
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        advice = "Check revision= and token= (`hf auth login`), and HF_ENDPOINT if it is set"
    else:
        advice = (
            f"To work offline, run `hf download {file.repository} {file.name} --revision {revision}` on a machine with "
            "a network and copy its cache folder (HF_HOME), or load a converted folder. To use a mirror, set "
            "HF_ENDPOINT"
        )
    return (
        f"could not download {file.name} ({file.megabytes} MB) of {file.repository} at {revision[:12]} from "
        f"{mask_secrets(constants.ENDPOINT)}, and it is not in the cache: {client_message(error)} {advice}"
    )


def client_message(error: Exception) -> str:
    """Returns the message of an error of the Hub client, in one line with a full stop and without secrets."""
    # The client wraps errors of the network. The first two lines of the Hub's own answers say what failed and why.
    told = error if isinstance(error, HfHubHTTPError) or error.__cause__ is None else error.__cause__
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    return one_line(mask_secrets(" ".join(lines[:2])).rstrip(".")) + "." if lines else f"{type(told).__name__}."


def verify(path: Path, sha256: str | None) -> None:
    """Compares a cached file with its hash, and removes a file that differs, so that the next call downloads it again.

    Args:
        path: File in the Hub client's cache.
        sha256: Expected hash; None uses the one in the name of a large file's blob, and skips the check without one.

    Raises:
        ValueError: if the file differs.
    """
    blob = path.resolve()
    expected = sha256 or (blob.name if SHA256.fullmatch(blob.name) else None)
    if expected is None:
        return
    actual = sha256_of(blob)
    if actual != expected:
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise ValueError(
            f"{path.name} has the SHA-256 {actual}, expected {expected}: the download was cut short or altered, and "
            "the file was removed. Load the model again to download it again"
        )


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
