"""Published files through the Hub client: its cache, its endpoint, its progress bar; checked when they arrive."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from stellar_hub.registry import HubFile

SHA256 = re.compile(r"[0-9a-f]{64}")
OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
CHUNK = 1 << 22


def fetch(file: HubFile, **options: Any) -> Path:
    """The file's place in the Hub client's cache, downloaded if it is not there.

    A file that was downloaded by this call is compared with its SHA-256: the registry's, else the one under which the
    Hub keeps large files. What is altered or cut short is removed.

    Args:
        file: What to fetch, at its pinned commit.
        **options: `cache_dir`, `force_download`, `local_files_only`, `token`, `revision` as for `hf_hub_download`.

    Raises:
        OSError: if it is neither cached nor can be fetched: what was tried, and how to work offline.
        ValueError: if its content is not what was published.
    """
    options = {name: value for name, value in options.items() if value is not None}
    revision = options.pop("revision", file.revision)
    cached = try_to_load_from_cache(file.repository, file.name, cache_dir=options.get("cache_dir"), revision=revision)
    try:
        path = Path(hf_hub_download(file.repository, file.name, revision=revision, **options))
    except (HTTPError, OSError, ValueError) as error:  # the client's ValueError: a forced download that cannot be
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault
        raise OSError(unreachable(file, revision, error)) from error
    was_there = isinstance(cached, str) and path.samefile(cached)
    if not was_there or options.get("force_download"):
        verify(path, file.sha256 if revision == file.revision else None)
    return path


def unreachable(file: HubFile, revision: str, error: Exception) -> str:
    """What was tried, why it failed, and what to do."""
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403, 404):
        advice = "Check revision= and token= (`hf auth login`), and HF_ENDPOINT if it is set"
    else:
        advice = (
            f"To work offline, run `hf download {file.repository} {file.name} --revision {revision}` where there is a "
            "network and copy the cache folder (HF_HOME), or load a converted folder; HF_ENDPOINT names a mirror"
        )
    return (
        f"could not get {file.name} ({file.megabytes} MB) of {file.repository} at {revision[:12]} from "
        f"{constants.ENDPOINT}, and it is not in the cache: {reason_of(error)} {advice}"
    )


def reason_of(error: Exception) -> str:
    """What the Hub client's error says, in one line that ends with a stop."""
    # The client wraps what the network said; of the Hub's own answers the second line says what the status was for.
    told = error if isinstance(error, HfHubHTTPError) or error.__cause__ is None else error.__cause__
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    return " ".join(lines[:2]).rstrip(".") + "." if lines else f"{type(told).__name__}."


def verify(path: Path, sha256: str | None) -> None:
    """Compare a cached file with its hash; one that differs is removed, so that the next call fetches it again.

    Raises:
        ValueError: if it differs.
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
            f"{path.name} arrived with SHA-256 {actual}, not {expected}: it was cut short or altered on the way. "
            "It was removed; load again to fetch it anew"
        )


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
