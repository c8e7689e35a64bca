"""Features kept on disk batch by batch, so that an interrupted evaluation goes on from those it has."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor

from stellar_hub.modeling.atomic_write import write_atomically

KEY_LENGTH = 32  # hexadecimal digits of the folder's name


class FeatureCache:
    """A folder of features that all come from the same weights, pictures and preprocessing.

    Args:
        root: Where folders for all keys lie; created if it does not exist.
        key: What the features depend on; anything that JSON can hold.

    Raises:
        FileExistsError: if `root` is a file.
    """

    def __init__(self, root: Path, key: Mapping[str, Any]):
        if root.exists() and not root.is_dir():
            raise FileExistsError(f"--cache {root} is a file; name a folder")
        text = json.dumps(key, sort_keys=True, indent=2)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "key.json").exists():
            write_atomically(self.folder / "key.json", f"{text}\n".encode())

    def read(self, name: str, first: int, stop: int) -> Tensor | None:
        """The feature of pictures `first` to `stop`; None if it is not there, or damaged."""
        try:
            rows = load_file(self._path(name, first, stop))["features"]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None
        return rows if len(rows) == stop - first else None

    def write(self, name: str, first: int, stop: int, rows: Tensor) -> None:
        """Keep the feature of pictures `first` to `stop`, `(stop - first, ...)`.

        Raises:
            OSError: if it cannot be written; nothing half-written stays.
        """
        path = self._path(name, first, stop)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, serialize({"features": rows.contiguous()}))

    def _path(self, name: str, first: int, stop: int) -> Path:
        return self.folder / name / f"{first:09d}-{stop:09d}.safetensors"
