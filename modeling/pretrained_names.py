"""The link from names such as "stellar-tiny", original files and pushing to the library, where it is installed.

The files of this folder travel with pushed weights and must load without the library; there, a name is what
transformers makes of it.
"""

import os
from pathlib import Path
from typing import Any, TypeVar

# Any: what is imported here may not be there.
sources: Any
push: Any
try:
    from stellar_hub.hub import push, sources
except ImportError:
    sources = push = None

PathT = TypeVar("PathT", str, os.PathLike, str | os.PathLike, str | os.PathLike | None)


def resolve_pretrained(name_or_path: PathT) -> PathT | str:
    """The folder of a model that comes with the library; anything else, a folder first of all, unchanged.

    Raises:
        FileNotFoundError: if it can only be a path, and nothing is there.
        ValueError: if it is no folder, no known name and no repository id.
    """
    if name_or_path is None or Path(name_or_path).exists():
        return name_or_path
    if isinstance(name_or_path, os.PathLike) or is_path_alone(name_or_path):
        raise FileNotFoundError(f"no such file or folder: {name_or_path}")
    return name_or_path if sources is None else sources.resolve(str(name_or_path))


def is_path_alone(name: str) -> bool:
    """Whether a string can be no repository id ("name" or "user/name")."""
    return Path(name).is_absolute() or name.startswith((".", "~")) or name.strip("/").count("/") > 1


def published_config(name_or_path: str | os.PathLike | None) -> dict[str, Any] | None:
    """The configuration's fields of a published model, which need no file; None for everything else."""
    if name_or_path is None or sources is None:
        return None
    return sources.published_config(str(name_or_path))


def convert_if_original(
    name_or_path: str | os.PathLike | None, decoder: bool | None, base_only: bool, options: dict[str, Any]
) -> Any:
    """`(config, state_dict, options)` of a published model or an original file; None for everything else."""
    if name_or_path is None or sources is None:
        return None
    return sources.convert_if_original(str(name_or_path), decoder, base_only, options)


def extract_features(model: Any, source: Any, outputs: Any, **options: Any) -> Any:
    """Features of a source's pictures through the library, batch by batch.

    Raises:
        ImportError: if the library is not installed.
    """
    try:
        # Not with the others above: that part of the library needs these files.
        from stellar_hub import extraction
    except ImportError as error:
        raise ImportError("extracting features needs the library: pip install stellar_hub") from error
    return extraction.extract_features(model, source, outputs, **options)


def push_model(model: Any, repo_id: str, **options: Any) -> str:
    """Push a model through the library; the commit's address.

    Raises:
        ImportError: if the library is not installed.
    """
    if push is None:
        raise ImportError("pushing a STELLAR model needs the library: pip install stellar_hub")
    return push.push(model, repo_id, **options).url
