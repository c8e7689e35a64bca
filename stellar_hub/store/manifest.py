"""The folder of a store: the names of its files, its manifest and its lock."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stellar_hub.features.identity import sha256_of_json
from stellar_hub.modeling.atomic_write import write_atomically
from stellar_hub.old_names import old_names

FORMAT = 1
MANIFEST = "manifest.json"
INDEX = "index.parquet"
SHARDS = "shards"
LOCK = ".lock"

_NOT_IDENTITY = ("counts", "source.names")  # the place of images says nothing about their content
_NUM_IMAGES = "num_images"
_NUM_IMAGES_ON_DISK = old_names("store_format_1")[_NUM_IMAGES]  # format 1 keeps the name it began with

_MAX_PROCESSES = 1 << 20
_MERGING = _MAX_PROCESSES  # the byte of the process that writes the index


def shard_path(folder: Path, number: int) -> Path:
    """Returns the file of a shard."""
    return folder / SHARDS / f"{number:06d}.safetensors"


def spell_rows(rows: range) -> str:
    """Returns rows as errors name them: "row 7" or "rows 8 to 15"."""
    return f"row {rows.start}" if len(rows) == 1 else f"rows {rows.start} to {rows.stop - 1}"


def unknown_files(folder: Path) -> list[str]:
    """Returns the names in a folder that do not belong to a store."""
    own = {MANIFEST, INDEX, SHARDS, LOCK}
    return sorted(name for name in os.listdir(folder) if name not in own and not _is_unfinished(name))


def remove_unfinished(path: Path) -> None:
    """Removes what killed processes left while they wrote a file; no process may be writing it now."""
    for leftover in list(_unfinished(path)):
        leftover.unlink(missing_ok=True)


def _is_unfinished(name: str) -> bool:
    """Whether a killed process left this file while it wrote another one (see `modeling/atomic_write.py`)."""
    return name.startswith(".") and name.endswith(".part")


def _unfinished(path: Path) -> Iterator[Path]:
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            if _is_unfinished(name) and name.startswith(f".{path.name}."):
                yield path.parent / name


@dataclass(frozen=True)
class Manifest:
    """What made a store, and what is in it. It holds no time and nothing about the machine.

    Two stores with the same model and the same preprocessing can be compared.

    Attributes:
        library: Name and version of this library.
        model: `name`, `revision`, `weights_sha256` and `dtype` of the model; models of other libraries have their
            `kind` as well.
        preprocessing: `id`, and the `settings` that the id is the SHA-256 of.
        features: `shapes` of one row by name, `dtype`, `precision`, `batch_size` and `grid_size`.
        source: `fingerprint`, `names` and `num_images`.
        shard_rows: Number of rows in a shard; the last shard may be shorter.
        counts: Number of rows by status, `ok` and `error`; None while the store is not complete.
        format: Version of the format on disk.
    """

    library: str
    model: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    features: Mapping[str, Any]
    source: Mapping[str, Any]
    shard_rows: int
    counts: Mapping[str, int] | None = None
    format: int = FORMAT

    @property
    def num_rows(self) -> int:
        """Number of rows, those with an error included."""
        return int(self.source[_NUM_IMAGES])

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_rows // self.shard_rows)

    def rows_of_shard(self, number: int) -> range:
        """Returns the rows of a shard."""
        return range(number * self.shard_rows, min((number + 1) * self.shard_rows, self.num_rows))

    @property
    def plan(self) -> str:
        """SHA-256 of all that decides the content of the shards."""
        values = _flat(self._on_disk())
        return sha256_of_json({name: value for name, value in values.items() if name not in _NOT_IDENTITY})

    def with_counts(self, num_ok: int, num_errors: int) -> "Manifest":
        """Returns the manifest of the complete store."""
        return replace(self, counts={"ok": num_ok, "error": num_errors})

    def write(self, folder: Path) -> None:
        """Writes the manifest into a folder, the whole file or nothing."""
        text = json.dumps(self._on_disk(), indent=2, sort_keys=True) + "\n"
        write_atomically(folder / MANIFEST, text.encode())

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads the manifest of a store.

        Raises:
            FileNotFoundError: if the manifest does not exist.
            ValueError: if it is damaged, or this version does not know its format.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not a feature store: it has no {MANIFEST}")
        try:
            values = json.loads(path.read_bytes())
            values["source"] = _renamed(values["source"], _NUM_IMAGES_ON_DISK, _NUM_IMAGES)
            manifest = cls(**values)
            _ = manifest.num_shards, manifest.features["shapes"], manifest.model["weights_sha256"]
        except (ValueError, TypeError, LookupError, ZeroDivisionError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error})") from error
        if manifest.format != FORMAT:
            raise ValueError(f"{path} has format {manifest.format}, this version of stellar_hub reads format {FORMAT}")
        return manifest

    def _on_disk(self) -> dict[str, Any]:
        values = asdict(self)
        return values | {"source": _renamed(values["source"], _NUM_IMAGES, _NUM_IMAGES_ON_DISK)}


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Returns one line for each differing value that decides the content of the shards.

    For example "features.dtype: float16 in the store, float32 now".
    """
    before, now = _flat(asdict(old)), _flat(asdict(new))
    names = [name for name in dict.fromkeys([*before, *now]) if name not in _NOT_IDENTITY]
    return [
        f"{name}: {before.get(name)} in the store, {now.get(name)} now"
        for name in names
        if before.get(name) != now.get(name)
    ]


def incompatibilities(one: Manifest, other: Manifest) -> list[str]:
    """Returns why the features of two stores cannot be compared: another model, or other preprocessing."""
    lines = []
    if one.model["weights_sha256"] != other.model["weights_sha256"]:
        lines.append(f"model: {_spell_model(one)} and {_spell_model(other)}")
    if one.preprocessing["id"] != other.preprocessing["id"]:
        settings, others = one.preprocessing["settings"], other.preprocessing["settings"]
        lines += [
            f"preprocessing: {name} {settings.get(name)} and {others.get(name)}"
            for name in sorted({*settings, *others})
            if settings.get(name) != others.get(name)
        ]
    return lines


def _spell_model(manifest: Manifest) -> str:
    return f"{manifest.model['name']} (weights {manifest.model['weights_sha256'][:12]})"


def _renamed(values: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if name == old else name: value for name, value in values.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with names such as "model.revision"; tuples become lists, as in JSON."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and prefix + name not in _NOT_IDENTITY:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = list(value) if isinstance(value, tuple) else value
    return found


class StoreLock:
    """The lock of a store, held inside `with`.

    Each process of a launch locks its own byte of a file, and a single process locks all bytes: a second run always
    finds a locked byte. The file stays empty. Such locks end with their process, however it ends, and its data workers
    do not inherit them.

    Args:
        folder: Folder of the store.
        rank: Number of this process in its launch.
        num_processes: Number of processes in the launch.

    Raises:
        BlockingIOError: on entering, if another run uses the store.
    """

    def __init__(self, folder: Path, rank: int = 0, num_processes: int = 1):
        self.folder = folder
        self.bytes = (_MAX_PROCESSES, 0) if num_processes == 1 else (1, rank)  # how many, and the first
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *self.bytes)
        except (BlockingIOError, PermissionError) as error:
            os.close(self._descriptor)
            raise BlockingIOError(
                f"another run uses the store {self.folder}: wait until it ends, or name another folder"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Waits until no other process writes the index, and keeps others from it inside the block."""
        # The same descriptor: closing another one of this file would end all locks of this process on it.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _MERGING)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _MERGING)
