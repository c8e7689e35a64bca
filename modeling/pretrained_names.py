"""The link from a name such as "stellar-tiny" to a folder, where the library is installed.

The files of this folder travel with pushed weights and must load without the library; there, names are what
transformers makes of them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PathT = TypeVar("PathT", str, os.PathLike, str | os.PathLike, str | os.PathLike | None)

locate_in_library: Callable[[str], str] | None
try:
    from stellar_hub.registry import locate as locate_in_library
except ImportError:
    locate_in_library = None


def resolve_pretrained(name_or_path: PathT) -> PathT | str:
    """The folder of a name that the library knows; anything else, an existing folder first of all, unchanged."""
    if name_or_path is None or locate_in_library is None or Path(name_or_path).exists():
        return name_or_path
    return locate_in_library(str(name_or_path))
